"""The benchmark of the workflow itself: `make bench` measures, docs/performance.md tells."""
