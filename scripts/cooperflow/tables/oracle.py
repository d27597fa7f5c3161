"""The oracle: its verdicts (do gold patches pass, are tests reliable on this machine) and table.

The verdicts are in oracle.csv and in columns of runs.csv and summary.csv.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from cooperflow import atomic_io
from cooperflow.analysis import losses
from cooperflow.experiment.plan import Plan
from cooperflow.layout import Pair
from cooperflow.outcomes import judgement
from cooperflow.upstream import result_files
from cooperflow.upstream.result_files import Evaluation

if TYPE_CHECKING:
    import pandas as pd

# The three evaluations of one repetition.
SOLO = "solo"  # the gold patch of both features
COOP = "coop"  # the gold patch of each feature, merged
CONTROL = "control"  # a patch that does nothing
PROBES = (SOLO, COOP, CONTROL)
# Each feature's gold patch alone; skipped with evaluation.own_features: false.
OWN = ("own1", "own2")

# Verdicts of the oracle on a pair.
OK = "ok"
FAILED = "failed"
FLAKY = "flaky"
NOT_RUN = "not run"
STATES = (OK, FAILED, FLAKY, NOT_RUN)

# The control: a new file that no test reads, no runner collects and no merge changes.
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
    *("repo", "task_id", "features", "status", "reason"),
    *("solo_passed", "coop_passed", "merge_status", "merge_strategy", "control_failed"),
    *("tests_run", "repeats", "flaky", "seconds", "solo_patch", "solo_status", "coop_status"),
    *("lead_alone", "control_passed", "feature1_tests", "feature2_tests", "patch_text"),
    *("own1_passed", "own2_passed", "loss"),
)


@dataclass(frozen=True)
class Probe:
    """Result of one evaluation by the oracle."""

    passed: tuple[bool, bool]  # by feature
    tests_passed: tuple[int, int]
    merge_status: str
    merge_strategy: str
    applied: bool
    seconds: float
    broke: str = ""  # the reason if there is no verdict
    # Older documents lack these.
    tests_run: tuple[int, int] | None = None  # passed or failed, by feature
    built: tuple[bool, bool] = (
        True,
        True,
    )  # by feature; False: the code did not build, so no test ran

    @property
    def both(self) -> bool:
        return all(self.passed)

    @property
    def lead_alone(self) -> bool:
        """Upstream's pass after a conflict: agent 1's patch alone passed both features' tests."""
        return self.both and self.merge_strategy.startswith("solo-")

    @property
    def verdict(self) -> tuple[object, ...]:
        """Values that must be equal in each repetition; conflicts are git's and never flaky."""
        return self.passed, self.merge_status

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def without_verdict(cls, reason: str, seconds: float = 0.0) -> Probe:
        return cls((False, False), (0, 0), "", "", False, round(seconds, 3), reason)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Probe:
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in document.items() if name in names}
        for name in ("passed", "tests_passed", "tests_run", "built"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


def probe(document: Mapping[str, Any] | None, seconds: float) -> Probe:
    """Return the probe for upstream's eval.json; None: the evaluation broke."""
    verdict = judgement.judge_eval(document, [])
    if document is None or verdict.outcome == judgement.INFRA_ERROR:
        reason = str((document or {}).get("error") or "the evaluation broke")
        return Probe.without_verdict(reason, seconds)
    facts = Evaluation.read(document)
    first, second = (result_files.count_tests(output) for output in facts.outputs)
    return Probe(
        passed=facts.passed,
        tests_passed=(first.passed, second.passed),
        merge_status=facts.merge_status,
        merge_strategy=facts.merge_strategy,
        applied=verdict.reason != judgement.PATCH_NOT_APPLIED,
        seconds=round(seconds, 3),
        tests_run=(first.total, second.total),
        built=(_is_built(facts, 0), _is_built(facts, 1)),
    )


def _is_built(facts: Evaluation, index: int) -> bool:
    return facts.passed[index] or not result_files.build_failed(facts.outputs[index])


def row(pair: Pair, repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a pair's row of oracle.csv from the documents of its repetitions."""
    a, b = pair.sorted_features
    base = {"repo": pair.repo, "task_id": pair.task_id, "features": f"{a},{b}"}
    if not repeats:
        nothing = {"reason": "", "repeats": 0, "solo_status": NOT_RUN, "coop_status": NOT_RUN}
        return {**dict.fromkeys(COLUMNS), **base, "status": NOT_RUN, **nothing}
    probes = {name: [Probe.parse(r["probes"][name]) for r in repeats] for name in PROBES}
    status, reason = judge(probes, (a, b))
    solo, coop, control = (probes[name] for name in PROBES)
    counts = [min(p.tests_passed[n] for p in solo) for n in (0, 1)]
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
        "flaky": any(map(_differ, probes.values())) if len(repeats) > 1 else None,
        "seconds": round(sum(p.seconds for p in solo) / len(solo), 3),
        "solo_patch": repeats[0].get("solo_patch", ""),
        "solo_status": judge_solo(probes, (a, b))[0],
        "coop_status": status,
        "lead_alone": all(p.lead_alone for p in coop),
        "control_passed": _chosen([any(p.passed[n] for p in control) for n in (0, 1)], (a, b)),
        "feature1_tests": counts[0],
        "feature2_tests": counts[1],
        "patch_text": ";".join(repeats[0].get("patch_text") or ()),
        **{f"{name}_passed": _own_passed(repeats, name) for name in OWN},
    }


def _own_passed(repeats: Sequence[Mapping[str, Any]], name: str) -> bool | None:
    """Return whether a gold patch alone passes its feature's tests; None: unknown."""
    probes = [Probe.parse(r["probes"][name]) for r in repeats if name in r["probes"]]
    if len(probes) < len(repeats) or any(probe.broke for probe in probes):
        return None
    return all(probe.passed[OWN.index(name)] for probe in probes)


def judge(probes: Mapping[str, Sequence[Probe]], features: Sequence[int]) -> tuple[str, str]:
    """Return the oracle's verdict on a pair, with reasons, for runs of two agents.

    A conflict of the gold patches is not a failure, but an upper limit for runs (the ceiling).
    """
    if doubt := _doubt(probes, PROBES):
        return doubt
    status, reason = judge_solo(probes, features)
    coop = probes[COOP]
    reasons = [reason] if reason else []
    if coop[0].merge_status == "missing_input" or not coop[0].applied:
        reasons.append("coop_gold_not_applied")
    elif coop[0].merge_status in (result_files.CLEAN, result_files.IDENTICAL) and not coop[0].both:
        built = all(coop[0].built)
        reasons.append("coop_gold_failed" if built else "coop_build_failed")
    if reasons:
        return FAILED, "; ".join(reasons)
    return status, "gold_conflict" if coop[0].merge_status == result_files.CONFLICTS else ""


def judge_solo(probes: Mapping[str, Sequence[Probe]], features: Sequence[int]) -> tuple[str, str]:
    """Return the oracle's verdict on a pair, with reasons, for runs of one agent.

    Gold patches that merge but break each other do not affect the pair's solo runs.
    """
    if doubt := _doubt(probes, (SOLO, CONTROL)):
        return doubt
    solo, control = probes[SOLO][0], probes[CONTROL][0]
    reasons = []
    if not solo.applied:
        reasons.append("solo_gold_not_applied")
    elif not solo.both:
        unbuilt = _chosen([not built for built in solo.built], features)
        reasons.append(f"solo_build_failed: feature {unbuilt}" if unbuilt else "solo_gold_failed")
    untested = _chosen([_ran_none(solo, n) for n in (0, 1)], features)
    if solo.applied and untested:
        reasons.append(f"{judgement.NO_TESTS_RUN}: feature {untested}")
    passed = _chosen(control.passed, features)
    if passed:
        reasons.append(f"control_passed: feature {passed}")
    return (FAILED, "; ".join(reasons)) if reasons else (OK, "")


def _doubt(probes: Mapping[str, Sequence[Probe]], names: Sequence[str]) -> tuple[str, str] | None:
    """Return the verdict if an evaluation broke or repetitions differ, otherwise None."""
    broke = [p.broke for name in names for p in probes[name] if p.broke]
    if broke:
        return FAILED, f"grading_broke: {broke[0].splitlines()[0][:120]}"
    differing = [name for name in names if _differ(probes[name])]
    return (FLAKY, ",".join(differing)) if differing else None


def _ran_none(probe: Probe, index: int) -> bool:
    """Return whether a feature has a verdict although no test ran, except after a failed build."""
    if probe.passed[index]:
        return not probe.tests_passed[index]
    return probe.built[index] and probe.tests_run is not None and not probe.tests_run[index]


def _chosen(chosen: Sequence[bool], features: Sequence[int]) -> str:
    """Return the data set's numbers of the chosen features."""
    return " and ".join(str(f) for f, is_so in zip(features, chosen, strict=True) if is_so)


def _differ(probes: Sequence[Probe]) -> bool:
    return len({p.verdict for p in probes}) > 1


def repeat_documents(plan: Plan, pair: Pair) -> list[dict[str, Any]]:
    """Return the complete documents of a pair's repetitions, sorted by number."""
    documents = [
        document
        for path in sorted(plan.results.oracle(pair).glob("repeat-*.json"))
        if isinstance(document := atomic_io.read_json(path), dict)
    ]
    return sorted(documents, key=lambda document: int(document["repeat"]))


def rows(plan: Plan) -> list[dict[str, Any]]:
    """Return the rows of oracle.csv for all pairs, including those not run."""
    documents = {pair: repeat_documents(plan, pair) for pair in plan.pairs}
    return [add_loss(row(pair, repeats), repeats) for pair, repeats in documents.items()]


def add_loss(row: dict[str, Any], documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row with the loss of the merged gold patches, as for a coop run."""
    if not documents:
        return {**row, "loss": ""}
    outcome = judgement.PASS if row["coop_passed"] else judgement.FAIL
    if any(document["probes"][COOP].get("broke") for document in documents):
        outcome = judgement.INFRA_ERROR
    own = row["own1_passed"], row["own2_passed"]
    return {**row, "loss": losses.loss(outcome, own, str(row["merge_status"]))}


def perform(plan: Plan) -> None:
    """Do the work of rule `oracle_table`."""
    print(f"{plan.results.oracle_csv}: {write_table(plan)}")


def write_table(plan: Plan) -> str:
    """Write oracle.csv and return a one-line summary."""
    text = oracle_table(rows(plan)).to_csv(index=False)
    atomic_io.write_text(plan.results.oracle_csv, text)
    atomic_io.write_text(plan.results.tables_marker, f"{time.time()}\n")
    return summary(plan)


def summary(plan: Plan) -> str:
    """Return a one-line summary of the oracle's state and results."""
    pair_rows = rows(plan)
    counts = {state: sum(row["status"] == state for row in pair_rows) for state in STATES}
    if counts[NOT_RUN] == len(pair_rows):
        return "not run. `snakemake oracle` evaluates the gold patches: no model, no cost."
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    alone = sum(bool(row["lead_alone"]) for row in pair_rows)
    merged = sum(bool(row["coop_passed"]) for row in pair_rows) - alone
    line = f"{', '.join(parts)} of {len(pair_rows)} pairs; gold patches merge and pass: {merged}"
    return f"{line}; pass by agent 1's patch alone after a conflict: {alone}" if alone else line


def oracle_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table with its columns in order."""
    import pandas as pd  # here, because sessions and jobs make no table

    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def add_states(runs: pd.DataFrame, probed: pd.DataFrame) -> pd.DataFrame:
    """Return the table of runs with the oracle's status of each run's pair in column `oracle`.

    The status depends on the run's mode: solo or merged.
    """
    states = {
        mode: dict(zip(_pair_keys(probed), map(str, probed[column]), strict=True))
        for mode, column in ((SOLO, "solo_status"), (COOP, "coop_status"))
    }
    modes = [SOLO if mode == SOLO else COOP for mode in runs["mode"]]
    run_states = [
        states[mode].get(key, NOT_RUN) for mode, key in zip(modes, _pair_keys(runs), strict=True)
    ]
    return runs.assign(oracle=run_states)


def add_oracle_columns(
    summary: pd.DataFrame, runs: pd.DataFrame, probed: pd.DataFrame, modes: Mapping[str, str]
) -> pd.DataFrame:
    """Return the summary with figures over trusted pairs, and the ceiling of the gold patches.

    Args:
        runs: with column `oracle`.
        probed: rows of all pairs, including those not run.
        modes: upstream's mode of each experiment, by its run name.
    """
    import pandas as pd

    from cooperflow.tables import stats

    evaluated = probed[probed["repeats"] > 0]
    gold = {
        mode: dict(zip(_pair_keys(evaluated), map(bool, evaluated[column]), strict=True))
        for mode, column in ((SOLO, "solo_passed"), (COOP, "coop_passed"))
    }
    rows = []
    for _, experiment in summary.iterrows():
        group = runs[runs["run_name"] == experiment["run_name"]]
        trusted = group[group["oracle"] == OK]
        passed = int((trusted["outcome"] == judgement.PASS).sum())
        graded = passed + int((trusted["outcome"] == judgement.FAIL).sum())
        low, high = stats.wilson(passed, graded)
        mode = SOLO if modes[str(experiment["run_name"])] == SOLO else COOP
        reached = [gold[mode][key] for key in _pair_keys(group) if key in gold[mode]]
        counts = {state: int((group["oracle"] == state).sum()) for state in STATES}
        rows.append(
            {
                "oracle_ok": counts[OK],
                "oracle_failed": counts[FAILED],
                "oracle_flaky": counts[FLAKY],
                "oracle_not_run": counts[NOT_RUN],
                "pass_oracle_ok": passed,
                "pass_rate_oracle_ok": stats.rate(passed, graded),
                "ci_low_oracle_ok": low,
                "ci_high_oracle_ok": high,
                "gold_ceiling": stats.rate(sum(reached), len(reached)) if reached else math.nan,
            }
        )
    extra = pd.DataFrame(rows, index=summary.index)
    return pd.concat([summary, extra], axis=1)


def _pair_keys(frame: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Return the pair of each row, computed by columns for speed."""
    columns = (frame["repo"].map(str), frame["task_id"].map(int), frame["features"].map(str))
    return list(zip(*columns, strict=True))
