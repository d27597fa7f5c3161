"""Write results/export/: the results in the formats of other tools."""

from cooperflow.archive import export
from cooperflow.experiment.plan import Plan
from cooperflow.jobs import entry_points


def main(plan: Plan) -> None:
    counts = export.write(plan)
    print(f"{plan.results.export}: {counts.trajectories} trajectories, {counts.logs} inspect logs")
    if counts.without:
        print(f"{counts.without} runs have no trajectory: none of their events is recorded.")
    for note in counts.notes:
        print(note)


if __name__ == "__main__":
    entry_points.run_rule(main, __doc__)
