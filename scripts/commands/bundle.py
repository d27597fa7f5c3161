"""Pack the files that a reviewer needs into one archive, or check such an archive."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import formats
from cooperflow.archive import bundle
from cooperflow.errors import UserError
from cooperflow.jobs import entry_points


def main() -> int:
    parser = entry_points.config_parser(__doc__)
    parser.add_argument("--check", type=Path, metavar="FILE", help="check this archive")
    arguments = parser.parse_args()
    if arguments.check is None:
        plan = entry_points.load_plan(arguments.configfile)
        if not plan.results.summary_csv.is_file():
            raise UserError(
                f"{plan.results.summary_csv} is missing. Run `snakemake -j 4 all` first."
            )
        path = bundle.pack(plan, bundle.secrets_of(plan))
        print(f"{path}: {formats.size(path.stat().st_size)}")
        return 0
    checks = bundle.check(arguments.check)
    for check in checks:
        print(f"{'good' if check.is_good else 'BAD ':<5}{check.name}: {check.detail}")
    return 0 if all(check.is_good for check in checks) else 1


if __name__ == "__main__":
    entry_points.run_command(main)
