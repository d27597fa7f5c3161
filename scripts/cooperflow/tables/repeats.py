"""Statistics of repeats: pass@1 with its error, and the stability of outcomes. Pure."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from cooperflow.tables import stats
from cooperflow.tables.difficulty import graded

COLUMNS = (
    "model",
    "setting",
    "repeats",
    "pairs",
    "graded",
    "pass_at_1",
    "se",
    "ci_low",
    "ci_high",
    "se_pairs",
    "se_repeats",
    "always_pass",
    "always_fail",
    "changed",
    "repeated_pairs",
    "changed_share",
    "disagreement",
    "replay",
)
_PAIR = ["repo", "task_id", "features"]


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model and setting, over all repeats, even if there is only one.

    pass_at_1 is the mean over pairs of the share of the pair's graded runs that pass.
    """
    rows = [
        _row(str(model), str(setting), group)
        for (model, setting), group in runs.groupby(["model", "setting"], sort=False)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(model: str, setting: str, group: pd.DataFrame) -> dict[str, object]:
    verdicts = graded(group)
    pairs = verdicts.groupby(_PAIR, sort=False)["passed"].agg(["sum", "size"])
    count = pairs["size"].to_numpy(float)
    passed = pairs["sum"].to_numpy(float)
    share = passed / count
    tasks = [f"{key[0]}/{key[1]}" for key in pairs.index]
    mean = float(share.mean()) if len(share) else math.nan
    error = stats.clustered_error(share, tasks)
    # With an error of 0 the normal interval has no width, which would claim too much.
    half = stats.Z * error if error else math.nan
    low, high = round(max(mean - half, 0.0), 6), round(min(mean + half, 1.0), 6)
    repeated = count > 1
    changed = repeated & (share > 0) & (share < 1)
    # The chance that two different runs of a pair end differently, by its runs.
    differs = 2 * passed[repeated] * (count - passed)[repeated] / (count * (count - 1))[repeated]
    # Half of that chance is the unbiased variance of one run of the pair.
    within = (
        np.sqrt((differs / 2 / count[repeated]).sum()) / repeated.sum()
        if repeated.any()
        else math.nan
    )
    return {
        "model": model,
        "setting": setting,
        "repeats": int(group["repeat"].nunique()),
        "pairs": len(share),
        "graded": len(verdicts),
        "pass_at_1": round(mean, 6),
        "se": error,
        "ci_low": math.nan if math.isnan(half) else low,
        "ci_high": math.nan if math.isnan(half) else high,
        "se_pairs": stats.clustered_error(share, range(len(share))),
        "se_repeats": round(float(within), 6),
        "always_pass": int((share == 1).sum()),
        "always_fail": int((share == 0).sum()),
        "changed": int(changed.sum()),
        "repeated_pairs": int(repeated.sum()),
        "changed_share": stats.rate(int(changed.sum()), int(repeated.sum())),
        "disagreement": round(float(differs.mean()), 6) if repeated.any() else math.nan,
        "replay": bool(group["replay"].iloc[0]),
    }
