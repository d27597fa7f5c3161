"""Code that runs inside a cooperbench process: SDK patches, call log, raw answers."""
