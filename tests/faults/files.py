"""Faults of the disk, of files, and of input: data set, subsets and configs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cooperflow.errors import UserError
from cooperflow.experiment import config, plan

from . import invariants, lab
from .lab import Lab
from .report import NOTHING_LEFT, PAID_ONCE, RESUMES, TRUE_OUTCOME, Campaign, Case, Line

PAIRS = [lab.PAIR, (lab.TEXTKIT, 2, 1, 2)]


def damaged(campaign: Campaign) -> None:
    """Truncate several documents of a growing experiment and start again.

    First a task is added, with a gate that is older than the sentinels, then a pair.
    """
    grown = lab.ALL_PAIRS
    control = campaign.control(grown, ["solo"])
    with lab.laboratory(pairs=grown[:2]) as laboratory:
        assert laboratory.run().returncode == 0, laboratory.sessions[-1].stdout[-2000:]
        one, other = (laboratory.run_folder("solo", pair) for pair in grown[:2])
        images = laboratory.results / "images"
        gate = images / "verified.json"
        # Documents, and the jobs in a dry run that prove that their damage was detected.
        documents: dict[Path, tuple[str, int]] = {
            one / "result.json": ("run_solo", 2),
            other / "eval.json": ("eval_solo", 2),
            laboratory.results / "runs" / "tested-solo" / "experiment.json": ("run_solo", 1),
        }
        growth = Line("", "")
        lab.write_pairs(laboratory.pairs, grown[:3])
        os.utime(gate, (1, 1))
        damage = dict.fromkeys(documents, "truncated")
        lines = _damage(campaign, laboratory, growth, damage, documents)
        lab.write_pairs(laboratory.pairs, grown)
        os.utime(gate, (1, 1))
        jobs = _jobs(laboratory.run("-n", "all").stdout)
        growth.expect(TRUE_OUTCOME, jobs.get("run_solo") == 1, f"pending for a new pair: {jobs}")
        with campaign.line("Files", "verified.json truncated") as line:
            _cut(gate, "truncated")
            jobs = _jobs(laboratory.run("-n", "all").stdout)
            line.expect(TRUE_OUTCOME, "images_verified" in jobs, f"the dry run lists {jobs}")
        sentinels = sorted(images.glob("cooper*.json"))
        damage = dict.fromkeys([*documents, sentinels[1], gate], "empty") | {
            sentinels[0]: "truncated"
        }
        documents |= dict.fromkeys(sentinels, ("image", 2)) | {gate: ("images_verified", 1)}
        lines += [line, *_damage(campaign, laboratory, growth, damage, documents)]
        with campaign.line("Files", "an experiment grows while its gate is old", 2) as line:
            for column in growth.checked:
                line.add(column, growth.violations.get(column, []))
            lines.append(line)
        end = Line("", "")
        campaign.check_invariants(end, laboratory, control, run=False)
        for line in lines:
            for column in end.checked:
                line.add(column, end.violations.get(column, []))


def _damage(
    campaign: Campaign,
    laboratory: Lab,
    growth: Line,
    damage: Mapping[Path, str],
    expected: Mapping[Path, tuple[str, int]],
) -> list[Line]:
    """Truncate documents. One session repairs them without model calls and makes the added run."""
    for path, cut in damage.items():
        _cut(path, cut)
    calls = len(laboratory.server.ledger())
    rows = len(laboratory.rows())
    jobs = _jobs(laboratory.run("-n", *laboratory.targets()).stdout)
    done = laboratory.run()
    new = {entry["conversation"] for entry in laboratory.server.ledger()[calls:]}
    growth.expect(
        TRUE_OUTCOME, len(laboratory.rows()) == rows + 1, f"{len(laboratory.rows())} rows"
    )
    growth.expect(PAID_ONCE, len(new) == 1, f"{len(new)} runs")
    lines = []
    for path, cut in damage.items():
        rule, count = expected[path]
        with campaign.line("Files", f"{path.name} {cut}") as line:
            line.expect(TRUE_OUTCOME, jobs.get(rule, 0) >= count, f"the dry run lists {jobs}")
            line.expect(RESUMES, not done.returncode, done.stdout[-1500:])
            line.expect(PAID_ONCE, len(new) == 1, "the model was called again")
            lines.append(line)
    return lines


def _cut(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")


def _jobs(dry: str) -> dict[str, int]:
    """Return the number of jobs of each rule that a dry run lists."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", dry, re.MULTILINE)}


def both_copies_gone(campaign: Campaign) -> None:
    """Only a finished run without any complete document is repeated."""
    control = campaign.control(PAIRS, ["solo"])
    with (
        campaign.line("Files", "result.json and its copies truncated") as line,
        lab.laboratory(pairs=PAIRS) as laboratory,
    ):
        assert laboratory.run().returncode == 0
        run = laboratory.run_folder("solo")
        attempt = run / "attempts" / "1"
        for folder in (run, attempt, attempt / "upstream"):
            path = folder / "result.json"
            path.write_bytes(path.read_bytes()[:100])
        calls = invariants.calls(laboratory.servers.values())
        assert laboratory.run().returncode == 0, laboratory.sessions[-1].stdout[-2000:]
        new = laboratory.server.ledger()[calls:]
        line.expect(TRUE_OUTCOME, {e["repo"] for e in new} == {lab.INVENTORY}, f"{len(new)} calls")
        # The usage of the later attempt includes both.
        for folder in (attempt, attempt / "upstream"):
            (folder / "result.json").unlink(missing_ok=True)
        campaign.check_invariants(line, laboratory, control, run=False)


def half_published(campaign: Campaign) -> None:
    """Simulate a kill between the decision and result.json, which leaves a temporary file."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "killed in the middle of publishing") as line,
        lab.laboratory() as laboratory,
    ):
        assert laboratory.run().returncode == 0
        run = laboratory.run_folder("solo")
        for path in [run / "result.json", run / "eval.json", *run.glob("*.patch")]:
            path.unlink()
        for folder in (run, run / "attempts" / "1", laboratory.results):
            (folder / ".result.json.x1y2z3.tmp").write_text('{"half": ')
        campaign.check_invariants(line, laboratory, control)
        assert len(laboratory.rows()) == 1


def two_starts(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "two sessions at once") as line,
        lab.laboratory(delay="1") as laboratory,
    ):
        first = laboratory.start()
        lab.wait_for(lambda: laboratory.server.ledger(), 120, "a call")
        second = laboratory.run()
        is_reported = f"process {first.pid}" in second.stdout and second.returncode != 0
        line.expect(TRUE_OUTCOME, is_reported, f"the second session: {second.stdout[-800:]}")
        first.wait(lab.PATIENCE)
        line.expect(RESUMES, not first.returncode, first.stdout[-800:])
        campaign.check_invariants(line, laboratory, control, run=False)


def clock(campaign: Campaign) -> None:
    """Set all times of an earlier session, killed before the tables, to the future."""
    control = campaign.control(PAIRS, ["solo"])
    with campaign.line("Files", "clock set back a day") as line, lab.laboratory() as laboratory:
        assert laboratory.run().returncode == 0
        lab.write_pairs(laboratory.pairs, PAIRS)
        later = time.time() + 86_400
        for path in laboratory.results.rglob("*"):
            if path.is_file():
                os.utime(path, (later, later))
        # Only the runs and evaluations, as if the session was killed before the tables.
        evals = laboratory.run_folder("solo", PAIRS[1]) / "eval.json"
        part = laboratory.run("-j", "4", str(evals.relative_to(laboratory.clone)))
        assert part.returncode == 0, part.stdout[-2000:]
        campaign.check_invariants(line, laboratory, control)
        line.expect(TRUE_OUTCOME, len(laboratory.rows()) == 2, "the tables lack the new run")


def moved(campaign: Campaign) -> None:
    """Move results to another clone at another path, with times in any order."""
    control = campaign.control(PAIRS, ["solo"])
    with (
        campaign.line("Files", "results moved to another path and clone") as line,
        lab.laboratory(pairs=PAIRS) as laboratory,
    ):
        assert laboratory.run().returncode == 0
        results = laboratory.results
        other = laboratory.folder / "elsewhere"
        lab.clone_to(other)
        lab.write_pairs(other / laboratory.pairs.name, PAIRS)
        shutil.copytree(results, other / "results", copy_function=shutil.copyfile)
        for number, path in enumerate(sorted((other / "results").rglob("*.json"))):
            os.utime(path, (1_700_000_000 - number, 1_700_000_000 - number))
        shutil.rmtree(laboratory.clone)
        other.rename(laboratory.clone)
        campaign.check_invariants(line, laboratory, control)


def another_version(campaign: Campaign) -> None:
    """Finished runs are unaffected by other scripts, rules and profiles, as after a checkout."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "another version checked out over finished results") as line,
        lab.laboratory() as laboratory,
    ):
        assert laboratory.run().returncode == 0
        for path in [
            *(laboratory.clone / "scripts").rglob("*.py"),
            *(laboratory.clone / "rules").iterdir(),
        ]:
            path.write_text(path.read_text() + "\n# another version\n")
        for path in (
            laboratory.clone / "config" / "config.yaml",
            laboratory.clone / "profiles/default/config.yaml",
        ):
            os.utime(path)
        shutil.rmtree(laboratory.clone / ".snakemake")
        campaign.check_invariants(line, laboratory, control)


def config_changed(campaign: Campaign) -> None:
    control = campaign.control(PAIRS, ["solo"])
    with (
        campaign.line("Files", "config changed under an existing run name") as line,
        lab.laboratory() as laboratory,
    ):
        assert laboratory.run().returncode == 0
        lab.write_pairs(laboratory.pairs, PAIRS)
        calls = invariants.calls(laboratory.servers.values())
        laboratory.document["agent"] = {"config": {"agent": {"step_limit": 7}}}
        refused = laboratory.run()
        is_reported = "agent_config" in refused.stdout and "accept" in refused.stdout
        line.expect(TRUE_OUTCOME, refused.returncode and is_reported, refused.stdout[-1500:])
        if invariants.calls(laboratory.servers.values()) != calls:
            line.add(PAID_ONCE, ["a call was paid for"])
        del laboratory.document["agent"]
        campaign.check_invariants(line, laboratory, control)


def data_changed(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Input", "data set changed after runs were done") as line,
        lab.laboratory() as laboratory,
    ):
        assert laboratory.run().returncode == 0
        tests = laboratory.clone / "demo/dataset/demo_inventory_task/task1/feature1/tests.patch"
        original = tests.read_bytes()
        tests.write_bytes(original + b"\n# other tests\n")
        done = laboratory.run()
        line.expect(RESUMES, "Nothing to be done" in done.stdout, done.stdout[-900:])
        # An evaluation with tests for which the run was not made is refused.
        (laboratory.run_folder("solo") / "eval.json").unlink()
        refused = laboratory.run()
        is_reported = "has other contents" in refused.stdout and refused.returncode
        line.expect(TRUE_OUTCOME, is_reported, refused.stdout[-1500:])
        tests.write_bytes(original)
        campaign.check_invariants(line, laboratory, control)


def full_disk(campaign: Campaign) -> None:
    """Put results/ on a small file system that becomes full during a run."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "results/ on a full file system") as line,
        lab.laboratory(delay="1") as laboratory,
        _small(laboratory.results, "48m"),
    ):
        start = laboratory.start()
        lab.wait_for(lambda: len(laboratory.server.ledger()) >= 2, 120, "two calls")
        filler = laboratory.results / "filler"
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(b"\0" * (1 << 20))
        with filler.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(b"\0" * 512)
        start.wait(lab.PATIENCE)
        calls = len(laboratory.server.ledger())
        line.expect(
            TRUE_OUTCOME, calls <= 14, f"{calls} calls were made that could not be original"
        )
        line.expect(TRUE_OUTCOME, start.returncode, "the session ended as a success")
        refused = laboratory.run()
        is_reported = "MB free" in refused.stdout and refused.returncode
        line.expect(TRUE_OUTCOME, is_reported, refused.stdout[-1500:])
        filler.unlink()
        campaign.check_invariants(line, laboratory, control)


def read_only(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "read-only results/") as line,
        lab.laboratory() as laboratory,
        _small(laboratory.results, "48m"),
    ):
        subprocess.run(["mount", "-o", "remount,ro", str(laboratory.results)], check=True)
        done = laboratory.run()
        is_reported = "cannot be written" in done.stdout or "not writable" in done.stdout
        line.expect(TRUE_OUTCOME, done.returncode and is_reported, done.stdout[-1500:])
        line.expect(TRUE_OUTCOME, "Traceback" not in done.stdout, "a traceback is shown")
        subprocess.run(["mount", "-o", "remount,rw", str(laboratory.results)], check=True)
        campaign.check_invariants(line, laboratory, control)


@contextlib.contextmanager
def _small(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "lab", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


Spoil = Callable[[Lab], None]


def _subset(document: Any) -> Spoil:
    return lambda laboratory: _write(laboratory, json.dumps(document))


def _write(laboratory: Lab, text: str) -> None:
    (laboratory.clone / "pairs.json").write_text(text)


def _tasks(repo: Any, task: Any, *pairs: Any) -> Any:
    return {"tasks": [{"repo": repo, "task_id": task, "pairs": list(pairs)}]}


def _no_patch(laboratory: Lab) -> None:
    (laboratory.clone / "demo/dataset/demo_inventory_task/task1/feature2/feature.patch").unlink()


INPUTS: tuple[tuple[str, Spoil, str], ...] = (
    ("unknown repo", _subset(_tasks("no_such_task", 1, [1, 2])), "no_such_task"),
    ("unknown task", _subset(_tasks(lab.INVENTORY, 77, [1, 2])), "77"),
    ("unknown feature", _subset(_tasks(lab.INVENTORY, 1, [1, 99])), "99"),
    ("the same feature twice", _subset(_tasks(lab.INVENTORY, 1, [2, 2])), "two different"),
    ("`..` in a name", _subset(_tasks("../../etc_task", 1, [1, 2])), "plain folder name"),
    ("`/` in a name", _subset(_tasks("a/b_task", 1, [1, 2])), "plain folder name"),
    ("a shell's words in a name", _subset(_tasks("$(id)_task", 1, [1, 2])), "plain folder name"),
    ("a line break in a name", _subset(_tasks("x_task\n", 1, [1, 2])), "plain folder name"),
    ("a path for a task number", _subset(_tasks(lab.INVENTORY, "../1", [1, 2])), "task number"),
    ("duplicate pairs", _subset(_tasks(lab.INVENTORY, 1, [1, 2], [2, 1])), "twice"),
    ("no pairs", _subset({"tasks": []}), "no pairs"),
    ("half a subset file", lambda laboratory: _write(laboratory, "{"),
     "not a subset file"),
    ("a missing patch file", _no_patch, "feature2/feature.patch"),
)  # fmt: skip


def inputs(campaign: Campaign) -> None:
    """Invalid configs are refused before anything starts, and the message names the value."""
    with lab.laboratory(dataset={"subset": "pairs.json"}) as laboratory:
        for number, (name, spoil, word) in enumerate(INPUTS):
            with campaign.line("Input", name) as line:
                _subset(_tasks(lab.INVENTORY, 1, [1, 2]))(laboratory)
                spoil(laboratory)
                # The first and the last are tested by a session, the others by a session's first
                # check.
                text = (
                    laboratory.run().stdout
                    if number in (0, len(INPUTS) - 1)
                    else _refusal(laboratory)
                )
                line.expect(TRUE_OUTCOME, word in text, text[-900:])
                line.expect(TRUE_OUTCOME, "Traceback" not in text, "a traceback is shown")
                paid = invariants.calls(laboratory.servers.values())
                line.expect(PAID_ONCE, not paid, "a call was paid for")
                line.add(NOTHING_LEFT, invariants.find_leftovers(laboratory))


def _refusal(laboratory: Lab) -> str:
    """Return the error message for a config when the DAG is built, empty without an error."""
    laboratory.write_config()
    with contextlib.chdir(laboratory.clone):
        try:
            plan.make(config.load([Path("lab.yaml")]))
        except UserError as error:
            return str(error)
    return ""


CASES = (
    Case("files: damaged", damaged, quick=True),
    Case("files: both copies", both_copies_gone),
    Case("files: half published", half_published),
    Case("files: two starts", two_starts),
    Case("files: clock", clock),
    Case("files: moved", moved),
    Case("files: version", another_version),
    Case("files: config", config_changed),
    Case("files: data", data_changed),
    Case("files: full disk", full_disk),
    Case("files: read-only", read_only),
    Case("inputs", inputs, quick=True),
)
