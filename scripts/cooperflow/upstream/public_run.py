"""The public run of the shipped experiment: the default assumption of every estimate.

300 runs (100 pairs of lite in three settings) of Command A with mini_swe_agent_v2.
"""

from __future__ import annotations

RUNS_PER_SETTING = 100
COST_USD = 138.59  # of all 300 runs
MEDIAN_SOLO_USD = 0.10
# Model calls of one agent, mean.
CALLS_SOLO = 10.4
CALLS_MESSAGING = 10.7
CALLS_SILENT = 8.7

AGENT_CALLS = RUNS_PER_SETTING * (CALLS_SOLO + 2 * CALLS_MESSAGING + 2 * CALLS_SILENT)
CALL_USD = COST_USD / AGENT_CALLS  # 0.0282, at 2.50 and 10.00 USD per million tokens in and out

# The tokens of one call were not published. These give CALL_USD at the prices above.
INPUT_TOKENS = 10_000
OUTPUT_TOKENS = 317

# The mean cost of a solo run was 2.9 times its median: costs are skewed, and the mean of another
# experiment may differ from the assumption by this factor in either direction.
MEAN_TO_MEDIAN = CALLS_SOLO * CALL_USD / MEDIAN_SOLO_USD


def calls(solo: bool, messaging: bool) -> float:
    """Return the mean number of model calls that one agent made in such a setting."""
    if solo:
        return CALLS_SOLO
    return CALLS_MESSAGING if messaging else CALLS_SILENT
