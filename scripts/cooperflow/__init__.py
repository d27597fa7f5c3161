"""The workflow's own knowledge: what happened in a run, is it trustworthy, what did it cost."""

__version__ = "0.1.0"
