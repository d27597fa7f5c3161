"""Pack what a reviewer needs into one archive, or check such an archive."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow.archive import bundle
from cooperflow.errors import UserError
from cooperflow.experiment import config, plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[])
    parser.add_argument("--check", type=Path, metavar="FILE", help="check this archive")
    arguments = parser.parse_args()
    if arguments.check is None:
        made = plan.make(config.load(arguments.configfile))
        if not made.results.summary_csv.is_file():
            raise UserError(f"{made.results.summary_csv} is not there yet: nothing to pack.")
        path = bundle.pack(made, bundle.secrets_of(made))
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return 0
    findings = bundle.check(arguments.check)
    for finding in findings:
        print(f"{'good' if finding.good else 'BAD ':<5}{finding.name}: {finding.told}")
    return 0 if all(finding.good for finding in findings) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"\n{error}\n")
