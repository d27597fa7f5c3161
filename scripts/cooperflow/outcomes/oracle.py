"""What the gold patches tell of a pair: can it be passed here, and are its tests to be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cooperflow.layout import Pair
from cooperflow.outcomes import outcome

# The three gradings of one repetition.
SOLO = "solo"  # the gold patch of both features
COOP = "coop"  # the gold patch of each feature, merged
CONTROL = "control"  # a patch that does nothing
PROBES = (SOLO, COOP, CONTROL)

# What the oracle says of a pair.
OK = "ok"
FAILED = "failed"
FLAKY = "flaky"
NOT_RUN = "not run"
STATES = (OK, FAILED, FLAKY, NOT_RUN)

# The control: a new file that no test looks at, no runner collects and no merge touches.
CONTROL_PATCH = """\
diff --git a/cooperflow_control.dat b/cooperflow_control.dat
new file mode 100644
index 0000000..9daeafb
--- /dev/null
+++ b/cooperflow_control.dat
@@ -0,0 +1 @@
+test
"""

COLUMNS = (
    "repo",
    "task_id",
    "features",
    "status",
    "reason",
    "solo_passed",
    "coop_passed",
    "merge_status",
    "merge_strategy",
    "control_failed",
    "tests_run",
    "repeats",
    "flaky",
    "seconds",
    "solo_patch",
)


@dataclass(frozen=True)
class Probe:
    """One grading of one probe."""

    passed: tuple[bool, bool]  # by feature
    tests_passed: tuple[int, int]
    merge_status: str
    merge_strategy: str
    applied: bool
    seconds: float
    broke: str = ""  # why there is no verdict

    @property
    def both(self) -> bool:
        return all(self.passed)

    @property
    def verdict(self) -> tuple[object, ...]:
        """What must be the same each time. A conflict is git's doing, and never flaky."""
        return self.passed, self.merge_status

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Probe:
        kept = dict(document)
        for name in ("passed", "tests_passed"):
            kept[name] = tuple(kept[name])
        return cls(**kept)


def probe(document: Mapping[str, Any] | None, seconds: float) -> Probe:
    """Return what upstream's eval document says; None: the grading broke."""
    verdict = outcome.judge_eval(document, [])
    if document is None or verdict.outcome == outcome.INFRA_ERROR:
        why = str((document or {}).get("error") or "the grading broke")
        return Probe((False, False), (0, 0), "", "", False, round(seconds, 3), why)
    merge = document.get("merge") or {}
    features = [document.get(f"feature{n}") or {} for n in (1, 2)]
    outputs = [str(f.get("test_output") or f.get("output") or "") for f in features]
    first, second = (bool(f.get("passed")) for f in features)
    return Probe(
        passed=(first, second),
        tests_passed=(outcome.count_tests(outputs[0]), outcome.count_tests(outputs[1])),
        merge_status=str(merge.get("status") or ""),
        merge_strategy=str(merge.get("strategy") or ""),
        applied=verdict.reason != outcome.PATCH_NOT_APPLIED,
        seconds=round(seconds, 3),
    )


def row(pair: Pair, repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the oracle's row of a pair from the documents of its repetitions."""
    a, b = pair.sorted_features
    base = {"repo": pair.repo, "task_id": pair.task_id, "features": f"{a},{b}"}
    if not repeats:
        return {**dict.fromkeys(COLUMNS), **base, "status": NOT_RUN, "reason": "", "repeats": 0}
    probes = {name: [Probe.parse(r["probes"][name]) for r in repeats] for name in PROBES}
    status, reason = judge(probes)
    solo, coop, control = (probes[name] for name in PROBES)
    return {
        **base,
        "status": status,
        "reason": reason,
        "solo_passed": all(p.both for p in solo),
        "coop_passed": all(p.both for p in coop),
        "merge_status": coop[0].merge_status,
        "merge_strategy": coop[0].merge_strategy,
        "control_failed": not any(any(p.passed) for p in control),
        "tests_run": min(sum(p.tests_passed) for p in solo),
        "repeats": len(repeats),
        "flaky": _flaky(probes) if len(repeats) > 1 else None,
        "seconds": round(sum(p.seconds for p in solo) / len(solo), 3),
        "solo_patch": repeats[0].get("solo_patch", ""),
    }


def judge(probes: Mapping[str, Sequence[Probe]]) -> tuple[str, str]:
    """Return what the oracle says of a pair, and why.

    A conflict of the gold patches is no failure: it bounds what can be reached (the ceiling).
    """
    broke = [p.broke for name in PROBES for p in probes[name] if p.broke]
    if broke:
        return FAILED, f"grading_broke: {broke[0].splitlines()[0][:120]}"
    if _flaky(probes):
        return FLAKY, ",".join(name for name in PROBES if _differ(probes[name]))
    solo, coop, control = (probes[name][0] for name in PROBES)
    if any(control.passed):
        passed = [str(n) for n, is_so in enumerate(control.passed, start=1) if is_so]
        return FAILED, f"control_passed: feature {' and '.join(passed)} of the pair"
    if not solo.both:
        return FAILED, "solo_gold_failed" if solo.applied else "solo_gold_not_applied"
    if not all(solo.tests_passed):
        return FAILED, outcome.NO_TESTS_RUN
    if coop.merge_status == "missing_input" or not coop.applied:
        return FAILED, "coop_gold_not_applied"
    if coop.merge_status in ("clean", "identical") and not coop.both:
        return FAILED, "coop_gold_failed"
    return OK, "gold_conflict" if coop.merge_status == "conflicts" else ""


def _flaky(probes: Mapping[str, Sequence[Probe]]) -> bool:
    return any(_differ(several) for several in probes.values())


def _differ(several: Sequence[Probe]) -> bool:
    return len({p.verdict for p in several}) > 1
