"""Show the progress of an experiment, read from its files, with or without a running session."""

import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.live import Live

from cooperflow.jobs import job
from cooperflow.status import progress, terminal_view

# Reading thousands of runs takes a moment: at most a tenth of the time is spent on it.
PAUSE_FACTOR = 10


def main() -> int:
    parser = job.config_parser(__doc__)
    parser.add_argument("--watch", action="store_true", help="repeat until Ctrl-C")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two readings")
    arguments = parser.parse_args()
    reader = progress.Reader.open(job.load_plan(arguments.configfile))
    console = Console()
    if not arguments.watch:
        console.print(terminal_view.view(reader.status(), console.width), highlight=False)
        reader.save()
        return 0
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=False) as live:
        while True:
            start = time.monotonic()
            live.update(terminal_view.view(reader.status(), console.width), refresh=True)
            reader.save()
            duration = time.monotonic() - start
            time.sleep(max(arguments.every, PAUSE_FACTOR * duration))
    return 0


if __name__ == "__main__":
    job.run(main)
