"""Unusual machines: a key from a secret file, other locales, an unwritable home, warnings."""

from __future__ import annotations

from . import invariants, lab
from .provider import fault_rule
from .report import NOTHING_LEFT, TRUE_OUTCOME, Campaign, Case

QUOTES_THE_KEY = f"invalid api token {lab.KEY}, as was sent"
MACHINES = (
    ("a locale that is not UTF-8", {"LC_ALL": "de_DE.ISO-8859-1"}),
    ("the C locale, not coerced", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ("a home that is not writable", {"HOME": "/proc/none", "XDG_CONFIG_HOME": "/proc/none"}),
    ("warnings are errors", {"PYTHONWARNINGS": "error::DeprecationWarning"}),
)


def key_from_a_file(campaign: Campaign) -> None:
    """A key's trailing line break is removed, and the key is redacted in errors that quote it."""
    models = {"tested": (), "denied": [fault_rule("unavailable", message=QUOTES_THE_KEY)]}
    with (
        campaign.line("Machine", "key with a trailing line break") as line,
        lab.laboratory(models=models, breaker={"failures": 0}) as laboratory,
    ):
        laboratory.variables[lab.KEY_NAME] = f"{lab.KEY}\n"
        done = laboratory.run()
        rows = [row for row in laboratory.rows() if row["model"] == "tested"]
        campaign.expect(line, rows, ("pass", ""))
        line.expect(TRUE_OUTCOME, "ends with white space" in done.stdout, done.stdout[-900:])
        line.add(TRUE_OUTCOME, invariants.find_key(laboratory, lab.KEY))
        line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory))
    with (
        campaign.line("Machine", "key with a line break inside") as line,
        lab.laboratory() as laboratory,
    ):
        laboratory.variables[lab.KEY_NAME] = f"{lab.KEY[:12]}\n{lab.KEY[12:]}"
        done = laboratory.run()
        is_reported = done.returncode and "a line break at position 13" in done.stdout
        line.expect(TRUE_OUTCOME, is_reported, done.stdout[-900:])
        line.expect(
            TRUE_OUTCOME, not invariants.calls(laboratory.servers.values()), "a model was called"
        )
        line.add(TRUE_OUTCOME, invariants.find_key(laboratory, lab.KEY[12:]))
        line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory))


def surroundings(campaign: Campaign) -> None:
    """Each run ends like an undisturbed run."""
    control = campaign.control([lab.PAIR], ["solo"])
    for name, variables in MACHINES:
        with campaign.line("Machine", name) as line, lab.laboratory() as laboratory:
            laboratory.variables.update(variables)
            campaign.check_invariants(line, laboratory, control)


CASES = (
    Case("machine: key", key_from_a_file),
    Case("machine: surroundings", surroundings),
)
