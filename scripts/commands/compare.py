"""Compare two results folders pair by pair."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from cooperflow.errors import UserError
from cooperflow.jobs import job
from cooperflow.tables import folder_comparison


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("a", type=Path, help="a results folder")
    parser.add_argument("b", type=Path, help="the other results folder")
    parser.add_argument("--anyway", action="store_true", help="mark tasks with other contents")
    arguments = parser.parse_args()
    if arguments.a.resolve() == arguments.b.resolve():
        raise UserError(f"A and B are the same folder: {arguments.a}. Name two folders.")
    a = folder_comparison.read("A", arguments.a)
    b = folder_comparison.read("B", arguments.b)
    result = folder_comparison.compare(a, b, arguments.anyway)
    folder_comparison.print_result(a.name, b.name, result, Console())
    return 0


if __name__ == "__main__":
    job.run(main)
