"""A session: preflight, cost estimate and plan before its first job; progress from its files."""
