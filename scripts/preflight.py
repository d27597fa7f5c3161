"""Check the prerequisites of the pending runs: one line each, with a remedy if it fails."""

import sys

from cooperflow.experiment.plan import Plan
from cooperflow.jobs import job
from cooperflow.session import preflight
from cooperflow.session.checks import Context, Work


def main(plan: Plan) -> int:
    pending = [run for run in plan.runs if not run.folder(plan.results).result.exists()]
    context = Context(plan, Work(images=True, runs=pending, evaluations=[]))
    findings = preflight.print_findings(preflight.run_checks(context), sys.stdout)
    failed = preflight.failed(findings)
    print(f"{len(pending)} runs pending; {len(failed)} problems to fix")
    return 1 if failed else 0


if __name__ == "__main__":
    job.run_rule(main, __doc__)
