"""List the runs that ended as infra_error, with their cost so far, and requeue them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from cooperflow import atomic_io, formats, layout, session_state
from cooperflow.experiment.plan import Plan, Run
from cooperflow.formats import fit_table
from cooperflow.jobs import entry_points
from cooperflow.outcomes import judgement, run_result
from cooperflow.outcomes.run_result import EvalRecord, RunRecord


@dataclass(frozen=True)
class BrokenRun:
    """A finished run whose outcome is infra_error."""

    run: Run
    reason: str
    attempts: int
    cost_usd: float

    @property
    def needs_only_evaluation(self) -> bool:
        """True if only its evaluation failed, so that the paid run is valid and kept."""
        return self.reason == judgement.EVAL_ERROR


def main() -> int:
    parser = entry_points.config_parser(__doc__)
    parser.add_argument("--list", action="store_true", help="only list the runs")
    arguments = parser.parse_args()
    plan = entry_points.load_plan(arguments.configfile)
    broken = find_broken(plan)
    if not broken:
        print("No run ended as infra_error: nothing to requeue.")
        return 0
    table = Table(box=None, pad_edge=False)
    for name in ("run", "reason", "attempts", "cost so far"):
        table.add_column(name, justify="right" if name in ("attempts", "cost so far") else "left")
    for entry in broken:
        table.add_row(entry.run.key, entry.reason, str(entry.attempts), formats.usd(entry.cost_usd))
    console = Console()
    console.print(fit_table(table, console.width, ["attempts", "cost so far", "reason"]))
    print(f"{len(broken)} runs, {formats.usd(sum(entry.cost_usd for entry in broken))} so far.")
    if arguments.list:
        return 0
    session_state.hold_lock(plan.results, layout.REPOSITORY)
    requeue(plan, broken)
    print("Requeued: `snakemake -j 4 all` runs them again, and no others.")
    return 0


def find_broken(plan: Plan) -> list[BrokenRun]:
    """Return the plan's runs whose outcome is infra_error."""
    runs = []
    for run in plan.runs:
        folder = run.folder(plan.results)
        record = RunRecord.read(atomic_io.read_json(folder.result)) or RunRecord()
        final = EvalRecord.read(atomic_io.read_json(folder.eval))
        broken = next((r for r in (record, final) if r.outcome == judgement.INFRA_ERROR), None)
        # The workflow cannot repeat an adopted run, which it did not make.
        if broken is None or (run.experiment.adopted and broken is record):
            continue
        attempts = len(folder.attempt_numbers())
        cost = run_result.usage_of_run(folder, run.experiment.agent.name).cost_usd
        runs.append(BrokenRun(run, broken.reason, attempts, cost))
    return runs


def requeue(plan: Plan, broken: Sequence[BrokenRun]) -> None:
    """Requeue the runs; their attempts stay and count in the usage."""
    for broken_run in broken:
        folder = broken_run.run.folder(plan.results)
        if not broken_run.needs_only_evaluation:
            for number in folder.attempt_numbers():
                result = folder.attempt(number) / layout.RESULT
                if result.exists():
                    result.rename(result.with_name(layout.RETIRED))
        folder.eval.unlink(missing_ok=True)
        for marker in plan.results.redo_markers.glob(f"{broken_run.run.dashed}.*"):
            marker.unlink(missing_ok=True)
        if not broken_run.needs_only_evaluation:
            folder.own.unlink(missing_ok=True)
            folder.result.unlink(missing_ok=True)
    if broken:
        for table in (plan.results.summary_csv, plan.results.runs_csv):
            table.unlink(missing_ok=True)


if __name__ == "__main__":
    entry_points.run_command(main)
