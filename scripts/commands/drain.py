"""Drain the running session: its running jobs finish and no others start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import session_state
from cooperflow.jobs import entry_points
from cooperflow.processes import Process


def main() -> int:
    arguments = entry_points.config_parser(__doc__).parse_args()
    results = entry_points.load_plan(arguments.configfile).results
    session = Process.parse(session_state.lock_holder(results) or "")
    if session is None:
        print(f"No session is running in {results.root}: nothing to drain.")
        return 0
    session_state.declare_halt(results, "", session_state.DRAIN, session_state.DRAINING, session)
    print(f"Process {session.pid} on {session.host}: {session_state.DRAINING}")
    return 0


if __name__ == "__main__":
    entry_points.run_command(main)
