"""Benchmark of the workflow: `make bench` measures, docs/performance.md has the results."""
