"""Measurements behind the figures of the project; each is `python -m benchmarks.<name>`."""
