"""Tests; a regular package, because some dependencies install a `tests` of their own."""
