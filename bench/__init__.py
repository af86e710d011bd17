"""Benchmarks: each prints our figure, a peer measured in the same run, and their ratio, as JSON."""
