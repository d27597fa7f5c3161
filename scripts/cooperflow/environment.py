"""The environment variables in which a start tells its jobs what they cannot ask. Stdlib only."""

from __future__ import annotations

# The config as checked, as JSON.
CONFIG = "COOPERFLOW_CONFIG"
# The process that the start's jobs, containers and claims belong to: Snakemake.
OWNER = "COOPERFLOW_OWNER"
# `off` makes every job a plain process; set from the config's `launcher`.
LAUNCHER = "COOPERFLOW_LAUNCHER"
# How many tries may follow a job's first.
RETRIES = "COOPERFLOW_RETRIES"
