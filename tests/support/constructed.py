"""Synthetic experiments with known truth: the files of every run, and the underlying facts.

The facts are drawn at random and the files are written from them, so that every figure can be
computed from the facts without reading a file. A loss is a word, a conflict a flag, an overlap the
number of places in a plan of two patches, and a late message the comparison of two integers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import synthetic

from cooperflow.analysis import losses
from cooperflow.analysis.losses import OwnFeature
from cooperflow.experiment.plan import Plan, Run

SEED = 18
BEGAN = 1_795_500_000
AGENTS = ("agent1", "agent2")
FILES = ("pkg/store.py", "pkg/report.py", "lib/names.go", "lib/sizes.go")
UNTOUCHED = ("docs/guide.md", "pkg/other.py")
SETTINGS = ("solo", "coop-comm", "coop-nocomm")
# Kinds of coop runs and their weights, with and without messages.
KINDS = ("both", "lead_alone", "needs_both", "agent", "merge", "integration", "unknown", "infra")
WEIGHTS = {"coop-comm": (33, 4, 4, 22, 12, 14, 6, 5), "coop-nocomm": (20, 4, 2, 20, 36, 8, 6, 4)}


@dataclass(frozen=True)
class Note:
    """A message, and the facts that its text states."""

    text: str
    plan: bool = False
    asks: bool = False
    file: str = ""  # a path in the text
    claims: bool = False  # the sender claims this file
    line: bool = False


@dataclass
class Turn:
    """A turn of an agent: its time, its commands, and an optional message instead of a command."""

    agent: int  # 0 or 1
    number: int  # from 1
    second: int
    commands: int
    note: Note | None = None
    content: str = "Next."


@dataclass
class Truth:
    """The facts of one run."""

    model: str
    setting: str
    repo: str
    task: int
    features: tuple[int, int]
    outcome: str
    kind: str = ""
    loss: str = ""
    own: tuple[bool | None, bool | None] = (None, None)
    merge: str = ""  # upstream's status
    caveat: str = ""
    # Overlap of the two patches; None unless there are two patches.
    overlapping: int | None = None
    near: int | None = None  # overlapping ones included
    lines: tuple[int, int] = (0, 0)
    touched: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    turns: list[Turn] = field(default_factory=list)

    @property
    def graded(self) -> bool:
        return self.outcome != "infra_error"

    @property
    def notes(self) -> list[Turn]:
        """The turns that send a message, ordered by time."""
        return sorted((t for t in self.turns if t.note), key=lambda turn: turn.second)


def make(root: Path, models: int = 1) -> tuple[Plan, list[Truth]]:
    """Write the files of an experiment on the pairs of lite; return its plan and facts."""
    plan = synthetic.make_plan(root, "lite", models)
    chance = random.Random(SEED)
    easiness = {pair: chance.random() for pair in plan.pairs}
    truths = []
    for run in plan.runs:
        truth = _draw(chance, run, easiness[run.pair])
        truths.append(truth)
        _write(plan, run, truth, *_patches(chance, truth))
    return plan, truths


def _draw(chance: random.Random, run: Run, easiness: float) -> Truth:
    setting = run.experiment.setting
    truth = Truth(
        run.experiment.model_name,
        setting.name,
        run.pair.repo,
        run.pair.task_id,
        run.pair.sorted_features,
        "fail",
    )
    if setting.mode == "solo":
        truth.outcome = "pass" if chance.random() < 0.25 + 0.75 * easiness else "fail"
        if chance.random() < 0.03:
            truth.outcome = "infra_error"
        return truth
    truth.kind = chance.choices(KINDS, WEIGHTS[setting.name])[0]
    failed_own = chance.choice([(False, True), (True, False), (False, False), (False, None)])
    merge = chance.choice(["clean", "conflicts"])
    outcome, loss, own, merge, caveat = {
        "both": ("pass", "", (True, True), "clean", ""),
        "lead_alone": ("pass", "", (True, True), "conflicts", "lead_alone"),
        "needs_both": ("pass", "", (True, False), "clean", ""),
        "agent": ("fail", "agent", failed_own, merge, ""),
        "merge": ("fail", "merge", (True, True), "conflicts", ""),
        "integration": ("fail", "integration", (True, True), "clean", ""),
        "unknown": ("fail", "unknown", *_unknown(chance), ""),
        "infra": ("infra_error", "unknown", (None, None), "", ""),
    }[truth.kind]
    truth.outcome, truth.loss, truth.own = outcome, loss, own
    truth.merge, truth.caveat = merge, caveat
    if truth.graded:
        truth.turns = _turns(chance, setting.messaging)
    return truth


def _unknown(chance: random.Random) -> tuple[tuple[bool | None, bool | None], str]:
    """Return the own features and the merge of a fail whose loss is unknown."""
    return chance.choice([((None, True), "conflicts"), ((None, None), "clean"), ((True, True), "")])


# --- patches ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Lines of a file that a patch replaces."""

    file: str
    start: int
    removed: int
    added: int


def _patches(chance: random.Random, truth: Truth) -> tuple[str | None, str | None]:
    """Draw the overlap and return both patches, None if the run does not have two."""
    if not truth.turns or truth.merge == "":
        # No merge: one agent left no patch.
        return ("" if truth.turns else None), None
    overlapping = chance.randint(1, 3) if truth.merge == "conflicts" else 0
    if chance.random() < 0.1:
        overlapping = 1 - min(overlapping, 1)  # identical changes, or a conflict of names
    near, apart = chance.randint(0, 2), chance.randint(0, 2)
    sides: tuple[list[Block], list[Block]] = ([], [])
    kinds = ["overlap"] * overlapping + ["near"] * near + ["apart"] * apart
    chance.shuffle(kinds)
    for number, kind in enumerate(kinds):
        file, start = chance.choice(FILES[:2]), 20 + 40 * number
        first = Block(file, start, chance.randint(1, 3), chance.randint(0, 3))
        gap = {"near": chance.randint(1, 3), "apart": chance.randint(4, 8)}.get(kind)
        # No line between them: inside the other block, or directly after it.
        shift = chance.randint(0, first.removed) if gap is None else first.removed + gap
        second = Block(file, start + shift, chance.randint(1, 3), chance.randint(1, 3))
        flip = chance.random() < 0.5
        sides[flip].append(first)
        sides[not flip].append(second)
    for side, file in zip(sides, FILES[2:], strict=True):
        if chance.random() < 0.6 or not side:
            side.append(Block(file, 20, 1, chance.randint(1, 4)))
    truth.overlapping, truth.near = overlapping, overlapping + near
    truth.lines = tuple(sum(b.removed + b.added for b in side) for side in sides)  # type: ignore[assignment]
    truth.touched = tuple(frozenset(b.file for b in side) for side in sides)  # type: ignore[assignment]
    _name_files(chance, truth)
    return _diff(sides[0], "one"), _diff(sides[1], "two")


def _diff(blocks: Iterable[Block], word: str) -> str:
    """Return the blocks as a unified diff with three lines of context."""
    text = ""
    by_file: dict[str, list[Block]] = {}
    for block in blocks:
        by_file.setdefault(block.file, []).append(block)
    for file, parts in sorted(by_file.items()):
        text += f"diff --git a/{file} b/{file}\n--- a/{file}\n+++ b/{file}\n"
        moved = 0
        for part in sorted(parts, key=lambda block: block.start):
            before, after = part.start - 3, part.start + part.removed
            text += f"@@ -{before},{6 + part.removed} +{before + moved},{6 + part.added} @@\n"
            text += "".join(f" line {n}\n" for n in range(before, part.start))
            text += "".join(f"-line {n}\n" for n in range(part.start, after))
            text += "".join(f"+{word} {n}\n" for n in range(part.added))
            text += "".join(f" line {n}\n" for n in range(after, after + 3))
            moved += part.added - part.removed
    return text


# --- messages ---------------------------------------------------------------------------------

# Text, plan, question, names a file, claims it, names a line.
TEXTS = (
    ("I will change {}.", True, False, True, True, False),
    ("I edit {} around line 12.", True, False, True, True, True),
    ("I take {}. Is that fine with you?", True, True, True, True, False),
    ("Which part do you take?", False, True, False, False, False),
    ("Do you change {}?", False, True, True, False, False),
    ("You own {}.", False, False, True, False, False),
    ("See line 40.", False, False, False, False, True),
    ("Yes, that is fine.", False, False, False, False, False),
    ("Done. All tests pass.", False, False, False, False, False),
)


def _turns(chance: random.Random, messaging: bool) -> list[Turn]:
    """Return the turns of both agents, one every twelve seconds, the second agent's 5 s later."""
    turns = []
    numbers = [chance.randint(3, 9) for _ in AGENTS]
    talkative = chance.choice((0.0, 0.2, 0.35, 0.5)) if messaging else 0.0
    for agent, count in enumerate(numbers):
        for k in range(count):
            commands = chance.choice((0, 1, 1, 2))
            turn = Turn(agent, k + 1, 12 * k + 5 * agent, commands)
            if chance.random() < talkative:
                turn.note = Note(f"{len(turns)}")  # the text is chosen later
            elif chance.random() < 0.1:
                # Upstream lists this quotation as a message, although nothing was sent.
                turn.content = f'I could run send_message {AGENTS[1 - agent]} "quoted {k}".'
                turn.commands = max(commands, 1)
            turns.append(turn)
    _note_texts(chance, turns)
    return turns


def _note_texts(chance: random.Random, turns: Sequence[Turn]) -> None:
    for turn in turns:
        if turn.note:
            text, plan, asks, names, claims, line = chance.choice(TEXTS)
            file = chance.choice(FILES + UNTOUCHED) if names else ""
            words = f"{text.format(file)} (m{turn.note.text})"
            turn.note = Note(words, plan, asks, file, claims, line)


def _name_files(chance: random.Random, truth: Truth) -> None:
    """Replace some paths by file names, as people write them."""
    for turn in truth.turns:
        note = turn.note
        if note and note.file in truth.touched[turn.agent] and chance.random() < 0.3:
            short = note.file.rpartition("/")[2]
            text = note.text.replace(note.file, short)
            turn.note = Note(text, note.plan, note.asks, note.file, note.claims, note.line)


def find_reading_second(truth: Truth, turn: Turn) -> int | None:
    """Return the time of the receiver's first turn that could use a message, None if none could.

    The first turn after a message was requested before the message, so the second turn reads it.
    """
    later_seconds = sorted(t.second for t in truth.turns if t.agent != turn.agent)
    later_seconds = [second for second in later_seconds if second > turn.second]
    return later_seconds[1] if len(later_seconds) > 1 else None


# --- files ------------------------------------------------------------------------------------


def _write(plan: Plan, run: Run, truth: Truth, *patches: str | None) -> None:
    folder = run.folder(plan.results)
    folder.attempt(1).mkdir(parents=True, exist_ok=True)
    solo = truth.setting == "solo"
    agents = {
        name: {"feature_id": feature, "status": "Submitted"}
        for name, feature in zip(AGENTS, truth.features, strict=True)
    }
    reason = {"pass": "", "fail": "tests_failed", "infra_error": "rate_limited"}[truth.outcome]
    broken = not truth.graded
    workflow = {
        "schema": 1,
        "outcome": truth.outcome if broken else None,
        "reason": reason if broken else "",
        "attempts": 1,
        "cost_usd": 0.01,
        "cost_complete": True,
        "seconds": 60.0,
        "steps": len(truth.turns),
        "messages_sent": len(truth.notes),
        "started": BEGAN,
        "ended": BEGAN + 60,
    }
    own = {"agent": {"status": "Submitted"}} if solo else {"agents": agents}
    _json(folder.result, {"agent_framework": "mini_swe_agent_v2", **own, "workflow": workflow})
    passed = {"passed": truth.outcome == "pass", "test_output": "1 passed"}
    merge = {"status": truth.merge, "strategy": "naive"} if truth.merge else None
    verdict = {"outcome": truth.outcome, "reason": reason, "caveat": truth.caveat, "seconds": 1.0}
    if not broken:
        verdict["tests_passed"] = [1, 1]
    tests = {"feature1": passed, "feature2": passed, "error": None}
    _json(folder.eval, {"merge": merge, **tests, "workflow": verdict})
    if solo:
        return
    verdicts = {
        name: OwnFeature(feature, passes, "" if passes else "tests_failed")
        for name, feature, passes in zip(AGENTS, truth.features, truth.own, strict=True)
    }
    _json(folder.own, losses.make_document({}, verdicts))
    if broken:
        return
    conversation = []
    for agent, (name, feature) in enumerate(zip(AGENTS, truth.features, strict=True)):
        if patches[agent] is not None:
            (folder.path / f"agent{feature}.patch").write_text(patches[agent] or "")
        messages = _trajectory(truth, agent)
        _json(folder.path / f"agent{feature}_traj.json", {"agent_id": name, "messages": messages})
        own_turns = [turn for turn in truth.turns if turn.agent == agent]
        listed = [turn.note.text for turn in own_turns if turn.note]
        listed += [turn.content.split('"')[1] for turn in own_turns if '"' in turn.content]
        other = AGENTS[1 - agent]
        conversation += [{"from": name, "to": other, "message": text} for text in listed]
    if run.experiment.setting.messaging:
        _json(folder.path / "conversation.json", conversation)


def _trajectory(truth: Truth, agent: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Your feature."}]
    inbox = [turn for turn in truth.notes if turn.agent != agent]
    for turn in (t for t in truth.turns if t.agent == agent):
        for sent in inbox:
            if find_reading_second(truth, sent) == turn.second and sent.note:
                text = f"[Message from {AGENTS[1 - agent]}]: {sent.note.text}"
                messages.append({"role": "user", "content": text})
        commands = [f"ls {n}" for n in range(turn.commands)]
        if turn.note:
            send = f"send_message {AGENTS[1 - agent]} <<'MSG'\n{turn.note.text}\nMSG"
            commands = [*commands, send]
        calls = [
            {"id": f"{turn.number}-{n}", "function": {"arguments": json.dumps({"command": text})}}
            for n, text in enumerate(commands)
        ]
        second = BEGAN + turn.second
        answer = {"role": "assistant", "content": turn.content, "tool_calls": calls}
        messages.append({**answer, "extra": {"timestamp": second, "response": {}}})
        messages += [
            {
                "role": "tool",
                "tool_call_id": call["id"],
                "content": "",
                "extra": {"raw_output": "", "returncode": 0, "timestamp": second + 1},
            }
            for call in calls
        ]
    return messages


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))
