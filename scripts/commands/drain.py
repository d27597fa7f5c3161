"""Drain the running session: running jobs finish, no others start; the next session resumes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import halt, session_lock
from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.processes import Process


def main() -> int:
    arguments = command.config_parser(__doc__).parse_args()
    results = plan.make(config.load(arguments.configfile)).results
    session = Process.parse(session_lock.holder(results) or "")
    if session is None:
        print(f"No session is running in {results.root}: nothing to drain.")
        return 0
    halt.declare(results, "", halt.DRAIN, halt.DRAINING, session)
    print(f"Process {session.pid} on {session.host}: {halt.DRAINING}")
    return 0


if __name__ == "__main__":
    command.run(main)
