"""The beginning of a start: all that is missing told at once, the plan, what it may cost."""
