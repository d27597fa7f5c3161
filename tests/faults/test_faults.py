"""The campaign's quick cases, which take a few minutes; `make faults` runs all cases."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from experiment_client import ALL_PAIRS
from filelock import FileLock

from faults.__main__ import CASES
from faults.report import Campaign, Case

# Two workers share the cases.
QUICK = [
    pytest.param(case, id=case.name, marks=pytest.mark.xdist_group(f"faults {number % 2}"))
    for number, case in enumerate(case for case in CASES if case.quick)
]


@pytest.fixture(scope="module")
def campaign(shared: Path) -> Campaign:
    control_file = shared / "control.json"
    shared_campaign = Campaign(seed=7, random=Random(7), control_file=control_file)
    with FileLock(f"{control_file}.lock"):  # all cases and workers share one undisturbed run
        shared_campaign.control(ALL_PAIRS, ["solo"])
    return shared_campaign


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", QUICK)
def test_all_invariants_hold(case: Case, campaign: Campaign) -> None:
    known = len(campaign.lines)
    case.do(campaign)
    broken = {line.fault: line.violations for line in campaign.lines[known:] if not line.has_passed}
    assert not broken
