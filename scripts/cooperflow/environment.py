"""The environment variables in which a start tells its jobs what they cannot ask. Stdlib only."""

from __future__ import annotations

from collections.abc import MutableMapping

# The config as checked, as JSON.
CONFIG = "COOPERFLOW_CONFIG"
# The start's own process, the Snakemake that a user began: it names the start, on all machines.
OWNER = "COOPERFLOW_OWNER"
# On a node of a cluster: the Snakemake there that carries out this one job of the start.
NODE = "COOPERFLOW_NODE"
# `off` makes every job a plain process; set from the config's `launcher`.
LAUNCHER = "COOPERFLOW_LAUNCHER"
# How many tries may follow a job's first.
RETRIES = "COOPERFLOW_RETRIES"


def make_portable(environment: MutableMapping[str, str]) -> None:
    """Give every process of a session the same text encoding and warnings on all machines.

    Upstream opens its files with the locale's encoding, and `PYTHONWARNINGS=error` would end a
    run for a deprecation in a library.
    """
    environment["PYTHONUTF8"] = "1"
    environment.pop("PYTHONWARNINGS", None)
