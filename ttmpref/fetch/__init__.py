"""Fetching released weights: only when asked, with resume, checksums and safe conversion."""
