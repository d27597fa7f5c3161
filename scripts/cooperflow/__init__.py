"""The workflow's package: plans runs, makes and evaluates them, and writes tables and a report."""

__version__ = "0.1.0"
