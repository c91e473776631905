"""Measurements against named peers; run them with ``python -m benchmarks`` from the root."""
