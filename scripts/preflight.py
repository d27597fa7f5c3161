"""Check the prerequisites of the pending runs: one line each, with a remedy if it fails."""

import sys

from cooperflow.experiment.plan import Plan
from cooperflow.jobs import entry_points
from cooperflow.session import session_start
from cooperflow.session.checks import Context, Work


def main(plan: Plan) -> int:
    pending = [run for run in plan.runs if not run.folder(plan.results).result.exists()]
    context = Context(plan, Work(images=True, runs=pending, evaluations=[]))
    findings = session_start.print_findings(session_start.run_checks(context), sys.stdout)
    failed = session_start.failed_checks(findings)
    print(f"{len(pending)} runs pending; {len(failed)} problems to fix")
    return 1 if failed else 0


if __name__ == "__main__":
    entry_points.run_rule(main, __doc__)
