"""Faults of the disk, of files, and of what is given in: data, subsets, configs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cooperflow.errors import UserError
from cooperflow.experiment import config, plan

from . import invariants, lab
from .lab import Lab
from .report import GOES_ON, LEFT, ONCE, TRUE, Campaign, Case, Control, Line

PAIRS = [lab.PAIR, (lab.TEXTKIT, 2, (1, 2))]


def truncated(campaign: Campaign) -> None:
    """Cut the documents of a half-finished experiment, all at once, and start again."""
    pairs = [*PAIRS, (lab.INVENTORY, 1, (2, 3)), (lab.TEXTKIT, 2, (3, 2))]
    control = campaign.control(pairs, ["solo"])
    with lab.laboratory(pairs=PAIRS) as here:
        assert here.run().process.returncode == 0, here.starts[-1].text[-2000:]
        one, other = (here.run_folder("solo", pair) for pair in PAIRS)
        images = here.results / "images"
        documents = (
            one / "result.json",
            other / "eval.json",
            sorted(images.glob("cooper*.json"))[0],
            images / "verified.json",
            here.results / "runs" / "lab-solo" / "experiment.json",
        )
        for more, how in enumerate(("truncated", "empty"), start=3):
            lab.write_pairs(here.clone / "pairs.json", pairs[:more])
            for path in documents:
                text = path.read_bytes()
                path.write_bytes(text[: len(text) // 2] if how == "truncated" else b"")
            calls = len(here.servers["lab"].ledger())
            dry = here.run("-n", *here.targets())
            done = here.run()
            lines = []
            for path in documents:
                with campaign.line("Files", f"{path.name} {how}") as line:
                    rule = {"result.json": "run_solo", "eval.json": "eval_solo"}.get(path.name)
                    told = path == documents[-1] or (rule or "image") in dry.text
                    line.add(TRUE, [] if told else ["the dry run does not report it"])
                    failed = done.process.returncode
                    line.add(GOES_ON, [done.text[-1500:]] if failed else [])
                    new = here.servers["lab"].ledger()[calls:]
                    again = len({entry["conversation"] for entry in new}) != 1
                    line.add(ONCE, ["the model was called again"] if again else [])
                    lines.append(line)
            _settle_all(campaign, here, control, lines)


def _settle_all(campaign: Campaign, here: Lab, control: Control, lines: list[Line]) -> None:
    """Check the invariants once for several faults that were caused together."""
    end = Line("", "")
    campaign.settle(end, here, control, run=False)
    for line in lines:
        for column in end.checked:
            line.add(column, end.wrong.get(column, []))


def both_copies_gone(campaign: Campaign) -> None:
    """A finished run without any complete document is repeated, and nothing else."""
    control = campaign.control(PAIRS, ["solo"])
    with (
        campaign.line("Files", "result.json and its copy truncated") as line,
        lab.laboratory(pairs=PAIRS) as here,
    ):
        assert here.run().process.returncode == 0
        run = here.run_folder("solo")
        for path in (run / "result.json", run / "attempts" / "1" / "result.json"):
            path.write_bytes(path.read_bytes()[:100])
        calls = invariants.calls(here.servers.values())
        assert here.run().process.returncode == 0, here.starts[-1].text[-2000:]
        new = here.servers["lab"].ledger()[calls:]
        line.add(TRUE, [] if {e["repo"] for e in new} == {lab.INVENTORY} else [f"{len(new)} calls"])
        # The usage of a later attempt includes both.
        (run / "attempts" / "1" / "result.json").unlink(missing_ok=True)
        campaign.settle(line, here, control, run=False)


def half_published(campaign: Campaign) -> None:
    """Killed between the decision and result.json; and a writer's temporary file left."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "killed in the middle of publishing") as line,
        lab.laboratory() as here,
    ):
        assert here.run().process.returncode == 0
        run = here.run_folder("solo")
        for path in [run / "result.json", run / "eval.json", *run.glob("*.patch")]:
            path.unlink()
        for folder in (run, run / "attempts" / "1", here.results):
            (folder / ".result.json.x1y2z3.tmp").write_text('{"half": ')
        campaign.settle(line, here, control)
        assert len(here.rows()) == 1


def two_starts(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with campaign.line("Files", "two starts at once") as line, lab.laboratory(delay="1") as here:
        first = here.start()
        lab.wait_for(lambda: here.servers["lab"].ledger(), 120, "a call")
        second = here.run()
        said = f"process {first.process.pid}" in second.text and second.process.returncode != 0
        line.add(TRUE, [] if said else [f"the second session: {second.text[-800:]}"])
        first.finished()
        line.add(GOES_ON, [first.text[-800:]] if first.process.returncode else [])
        campaign.settle(line, here, control, run=False)


def clock(campaign: Campaign) -> None:
    """All times of an earlier session are in the future; killed before the tables are made."""
    control = campaign.control(PAIRS, ["solo"])
    with campaign.line("Files", "clock set back a day") as line, lab.laboratory() as here:
        assert here.run().process.returncode == 0
        lab.write_pairs(here.clone / "pairs.json", PAIRS)
        later = time.time() + 86_400
        for path in here.results.rglob("*"):
            if path.is_file():
                os.utime(path, (later, later))
        # Only the runs and evaluations: as if killed before the tables.
        evals = here.run_folder("solo", PAIRS[1]) / "eval.json"
        part = here.run("-j", "4", str(evals.relative_to(here.clone)))
        assert part.process.returncode == 0, part.text[-2000:]
        campaign.settle(line, here, control)
        line.add(TRUE, [] if len(here.rows()) == 2 else ["the tables lack the new run"])


def growth(campaign: Campaign) -> None:
    """Add a task, then a pair with a gate older than the sentinels: each new run is made once."""
    grown = [*PAIRS, (lab.INVENTORY, 1, (2, 3))]
    control = campaign.control(grown, ["solo"])
    with (
        campaign.line("Files", "an experiment grows while its gate is old", times=2) as line,
        lab.laboratory() as here,
    ):
        assert here.run().process.returncode == 0, here.starts[-1].text[-2000:]
        for number in (2, 3):
            lab.write_pairs(here.clone / "pairs.json", grown[:number])
            os.utime(here.results / "images" / "verified.json", (1, 1))
            calls = len(here.servers["lab"].ledger())
            dry = here.run("-n", "all")
            line.add(TRUE, [] if "run_solo" in dry.text else ["the dry run lists no run"])
            done = here.run()
            line.add(GOES_ON, [done.text[-1500:]] if done.process.returncode else [])
            conversations = {e["conversation"] for e in here.servers["lab"].ledger()[calls:]}
            line.add(ONCE, [] if len(conversations) == 1 else [f"{len(conversations)} runs"])
            line.add(TRUE, [] if len(here.rows()) == number else [f"{len(here.rows())} rows"])
        campaign.settle(line, here, control, run=False)


def moved(campaign: Campaign) -> None:
    """Results in another clone at another path, their times in any order."""
    control = campaign.control(PAIRS, ["solo"])
    with (
        campaign.line("Files", "results moved to another path and clone") as line,
        lab.laboratory(pairs=PAIRS) as here,
    ):
        assert here.run().process.returncode == 0
        results = here.results
        other = here.folder / "elsewhere"
        lab.clone_to(other)
        lab.write_pairs(other / "pairs.json", PAIRS)
        shutil.copytree(results, other / "results", copy_function=shutil.copyfile)
        for number, path in enumerate(sorted((other / "results").rglob("*.json"))):
            os.utime(path, (1_700_000_000 - number, 1_700_000_000 - number))
        shutil.rmtree(here.clone)
        other.rename(here.clone)
        campaign.settle(line, here, control)


def another_version(campaign: Campaign) -> None:
    """Other scripts, rules and profile (as a checkout makes them) leave finished runs alone."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "another version checked out over finished results") as line,
        lab.laboratory() as here,
    ):
        assert here.run().process.returncode == 0
        for path in [*(here.clone / "scripts").rglob("*.py"), *(here.clone / "rules").iterdir()]:
            path.write_text(path.read_text() + "\n# another version\n")
        for path in (
            here.clone / "config" / "config.yaml",
            here.clone / "profiles/default/config.yaml",
        ):
            os.utime(path)
        shutil.rmtree(here.clone / ".snakemake")
        campaign.settle(line, here, control)


def config_changed(campaign: Campaign) -> None:
    control = campaign.control(PAIRS, ["solo"])
    with (
        campaign.line("Files", "config changed under an existing run name") as line,
        lab.laboratory() as here,
    ):
        assert here.run().process.returncode == 0
        lab.write_pairs(here.clone / "pairs.json", PAIRS)
        calls = invariants.calls(here.servers.values())
        here.config["agent"] = {"config": {"agent": {"step_limit": 7}}}
        refused = here.run()
        told = "agent_config" in refused.text and "accept" in refused.text
        line.add(TRUE, [] if refused.process.returncode and told else [refused.text[-1500:]])
        if invariants.calls(here.servers.values()) != calls:
            line.add(ONCE, ["a call was paid for"])
        del here.config["agent"]
        campaign.settle(line, here, control)


def data_changed(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Input", "data set changed after runs were done") as line,
        lab.laboratory() as here,
    ):
        assert here.run().process.returncode == 0
        tests = here.clone / "demo/dataset/demo_inventory_task/task1/feature1/tests.patch"
        kept = tests.read_bytes()
        tests.write_bytes(kept + b"\n# other tests\n")
        done = here.run()
        line.add(GOES_ON, [done.text[-900:]] if "Nothing to be done" not in done.text else [])
        # To be graded by tests that the run was not made for: refused.
        (here.run_folder("solo") / "eval.json").unlink()
        refused = here.run()
        told = "has other contents" in refused.text and refused.process.returncode
        line.add(TRUE, [] if told else [refused.text[-1500:]])
        tests.write_bytes(kept)
        campaign.settle(line, here, control)


def full_disk(campaign: Campaign) -> None:
    """results/ on a small file system that fills in mid-run."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "results/ on a full file system") as line,
        lab.laboratory(delay="1") as here,
        _small(here.results, "48m"),
    ):
        start = here.start()
        lab.wait_for(lambda: len(here.servers["lab"].ledger()) >= 2, 120, "two calls")
        filler = here.results / "filler"
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(b"\0" * (1 << 20))
        with filler.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(b"\0" * 512)
        start.finished()
        calls = len(here.servers["lab"].ledger())
        line.add(TRUE, [] if calls <= 14 else [f"{calls} calls were made that could not be kept"])
        line.add(TRUE, [] if start.process.returncode else ["the session ended as a success"])
        refused = here.run()
        told = "MB free" in refused.text and refused.process.returncode
        line.add(TRUE, [] if told else [refused.text[-1500:]])
        filler.unlink()
        campaign.settle(line, here, control)


def read_only(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Files", "read-only results/") as line,
        lab.laboratory() as here,
        _small(here.results, "48m"),
    ):
        subprocess.run(["mount", "-o", "remount,ro", str(here.results)], check=True)
        done = here.run()
        told = "cannot be written" in done.text or "not writable" in done.text
        line.add(TRUE, [] if done.process.returncode and told else [done.text[-1500:]])
        line.add(TRUE, ["a traceback is shown"] if "Traceback" in done.text else [])
        subprocess.run(["mount", "-o", "remount,rw", str(here.results)], check=True)
        campaign.settle(line, here, control)


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
    return lambda here: _write(here, json.dumps(document))


def _write(here: Lab, text: str) -> None:
    (here.clone / "pairs.json").write_text(text)


def _tasks(repo: Any, task: Any, *pairs: Any) -> Any:
    return {"tasks": [{"repo": repo, "task_id": task, "pairs": list(pairs)}]}


def _no_patch(here: Lab) -> None:
    (here.clone / "demo/dataset/demo_inventory_task/task1/feature2/feature.patch").unlink()


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
    ("half a subset file", lambda here: _write(here, "{"),
     "not a subset file"),
    ("a missing patch file", _no_patch, "feature2/feature.patch"),
)  # fmt: skip


def inputs(campaign: Campaign) -> None:
    """Impossible configs are refused before anything starts, and the message names the value."""
    with lab.laboratory() as here:
        for number, (name, spoil, word) in enumerate(INPUTS):
            with campaign.line("Input", name) as line:
                lab.write_pairs(here.clone / "pairs.json", [lab.PAIR])
                spoil(here)
                # A session for the first and the last; the others by a session's first check.
                text = here.run().text if number in (0, len(INPUTS) - 1) else _refusal(here)
                line.add(TRUE, [] if word in text else [text[-900:]])
                line.add(TRUE, ["a traceback is shown"] if "Traceback" in text else [])
                paid = invariants.calls(here.servers.values())
                line.add(ONCE, ["a call was paid for"] if paid else [])
                line.add(LEFT, invariants.nothing_left(here))


def _refusal(here: Lab) -> str:
    """Return the message about a config when the DAG is built, empty without one."""
    here.write_config()
    with contextlib.chdir(here.clone):
        try:
            plan.make(config.load([Path("lab.yaml")]))
        except UserError as error:
            return str(error)
    return ""


CASES = (
    Case("files: truncated", truncated, quick=True),
    Case("files: both copies", both_copies_gone),
    Case("files: half published", half_published),
    Case("files: two starts", two_starts),
    Case("files: clock", clock),
    Case("files: growth", growth, quick=True),
    Case("files: moved", moved),
    Case("files: version", another_version),
    Case("files: config", config_changed),
    Case("files: data", data_changed),
    Case("files: full disk", full_disk),
    Case("files: read-only", read_only),
    Case("inputs", inputs, quick=True),
)
