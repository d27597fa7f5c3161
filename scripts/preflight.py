"""Look at everything that the runs to do need; a line each, ok or what to do."""

import sys

from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.session import preflight_checks


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        made = plan.make(config.from_environment())
        to_do = [run for run in made.runs if not run.folder(made.results).result.exists()]
        bad = preflight_checks.show(
            preflight_checks.lines(made, to_do), lambda text: print(text, flush=True)
        )
        print(f"{len(to_do)} runs to do; " + (f"{len(bad)} things to mend" if bad else "all well"))
        return 1 if bad else 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
