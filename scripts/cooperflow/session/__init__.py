"""Start of a session: preflight, cost estimate and plan."""
