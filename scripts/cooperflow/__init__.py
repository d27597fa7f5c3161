"""The workflow's package: planning, running and judging of runs, and their tables and report."""

__version__ = "0.1.0"
