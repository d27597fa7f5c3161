"""Fetch the data set if it is missing, check it, and write its hashes."""

from cooperflow import processes
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan
from cooperflow.jobs import entry_points


def main(plan: Plan) -> None:
    processes.interrupt_on_signals()
    document = dataset.fetch_and_check(plan)
    print(
        f"data set: {document['dir']} ({document['source']}): complete for "
        f"{document['pairs']} pairs of {len(document['tasks'])} tasks, "
        f"hash {document['hash'][:16]}"
    )


if __name__ == "__main__":
    entry_points.run_rule(main, __doc__)
