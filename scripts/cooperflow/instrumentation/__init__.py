"""Code that runs inside a cooperbench process: upstream patches, call log, raw answers."""
