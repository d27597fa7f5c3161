"""Make the headline tables for a paper (LaTeX) and for a page (Markdown)."""

import sys

import pandas as pd

from cooperflow import atomic_io
from cooperflow.experiment import config, plan
from cooperflow.jobs import command
from cooperflow.tables import headline_tables


def main() -> int:
    arguments = command.parser(__doc__).parse_args()

    def work() -> int:
        results = plan.make(config.from_environment()).results
        made = (
            headline_tables.summary(pd.read_csv(results.summary_csv, keep_default_na=False)),
            headline_tables.comparison(pd.read_csv(results.comparison_csv)),
        )
        for table in made:
            for kind, text in (("tex", table.latex()), ("md", table.markdown())):
                atomic_io.write_text(results.table(f"{table.name}.{kind}"), text)
                print(results.table(f"{table.name}.{kind}"))
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
