"""Communication of a run's agents: properties of their messages, and measures over time.

The questions come from the CooperBench paper (arXiv:2601.13295v2), section 5 and figures 5 and 6.

Each rule is a simple pattern on English text that a reader can check by hand. A rule finds words,
not intentions. docs/results.md defines every column and the limits of the rules. All functions are
pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cooperflow.analysis.history import Event, History

# Suffixes of names that count as files of a repository.
_ENDINGS = (
    "py|pyi|go|rs|ts|tsx|js|jsx|mjs|java|kt|rb|c|cc|cpp|h|hpp|cs|sh|sql|md|rst|txt|toml|cfg|ini"
    "|json|ya?ml|html|css|lock|mod|sum|proto|xml"
)
_FILE = re.compile(rf"(?<![\w./:@-])(/?(?:[\w.-]+/)*[\w-][\w.-]*\.(?:{_ENDINGS}))(?![\w/]|\.\w)")
_LINE = re.compile(r"\blines?\s*[~#:]?\s*\d+|\bL\d+\b|\.(?:" + _ENDINGS + r"):\d+", re.IGNORECASE)
_URL = re.compile(r"\bhttps?://\S+")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_QUESTION = re.compile(r"\?(?=[\s\"')\]*_]|$)")

_WORK = (
    "add|adjust|build|change|create|cover|edit|export|extend|extract|handle|implement"
    "|insert|introduce|keep|make|modify|move|need|own|place|plan|propose|put|refactor|remove|rename"
    "|replace|rewrite|start|take|touch|update|use|work|write"
)
_PLAN = re.compile(
    r"\b(?:my|our|the|proposed)\s+(?:plan|proposal|approach|strategy)\b|^\W*plan\b"
    r"|\b(?:i|we)(?:'ll|\u2019ll)\b"
    r"|\b(?:i|we)\s+(?:\w+\s+)?(?:will|shall|intend|propose|suggest|plan|going to)\b"
    r"|\b(?:i\s+am|i'm|i\u2019m|we\s+are|we're|we\u2019re)\s+(?:\w+\s+)?(?:going\s+to|\w+ing)\b"
    rf"|\b(?:i|we)\s+(?:also\s+|only\s+|then\s+)?(?:{_WORK})\b",
    re.IGNORECASE | re.MULTILINE,
)

# Words in a clause that refer to the sender's or the other agent's work.
_OTHERS = re.compile(
    r"\b(?:you|your|yours|you're|you\u2019re|not|never|without|avoid|except|neither|nor)\b"
    r"|n['\u2019]t\b|\balone\b|\buntouched\b|\bunchanged\b",
    re.IGNORECASE,
)
_FIRST_PERSON = re.compile(
    r"\b(?:i|i'm|i\u2019m|i'll|i\u2019ll|me|my|mine|we|we'll|our|ours)\b", re.IGNORECASE
)
_CLAUSE = re.compile(r"(?<=[.!?;,:])\s+|\n+")


@dataclass(frozen=True)
class Traits:
    """Properties of a message that the rules find."""

    plan: bool
    questions: int
    files: tuple[str, ...]
    announced: tuple[str, ...]  # files that the sender claims for itself
    lines: bool


def read_traits(text: str) -> Traits:
    """Return the traits of a message's text."""
    return Traits(
        is_plan(text),
        count_questions(text),
        mentioned_files(text),
        announced_files(text),
        names_lines(text),
    )


def is_plan(text: str) -> bool:
    """Return whether a text states what its sender does or will do.

    It must contain the word plan, proposal, approach or strategy, or the first person with will,
    shall, intend, propose, suggest, plan, an -ing form or a verb of work (add, change, take, ...).
    Questions do not count.
    """
    return any(
        _PLAN.search(sentence) and not sentence.rstrip(" \"')*_").endswith("?")
        for sentence in _sentences(_plain(text))
    )


def count_questions(text: str) -> int:
    """Return the number of question marks that end a word, outside of code and URLs."""
    return len(_QUESTION.findall(re.sub(r"\?+", "?", _plain(text))))


def mentioned_files(text: str) -> tuple[str, ...]:
    """Return the names of files in a text, each once: words with the suffix of a source file."""
    return tuple(dict.fromkeys(_FILE.findall(_URL.sub(" ", text))))


def names_lines(text: str) -> bool:
    """Return whether a text names a line by its number: line 12, L12, store.py:12."""
    return bool(_LINE.search(_URL.sub(" ", text)))


def announced_files(text: str) -> tuple[str, ...]:
    """Return the files that the sender claims for itself.

    A text is split into clauses at `. ! ? ; , :` and line breaks. A question, or a clause with a
    word for the other agent or a negation (you, yours, not, never, alone, ...), claims nothing. A
    clause in the first person claims the files that it names. Any other clause is treated like the
    previous one.
    """
    claimed: list[str] = []
    is_own = False
    unassigned = ""  # files named before the clause that assigns them: "a.py, b.py are yours"
    for part in _CLAUSE.split(_URL.sub(" ", text)):
        clause = f"{unassigned} {part}".strip()
        if part.endswith(",") and _FILE.fullmatch(part[:-1]):
            unassigned = clause
            continue
        unassigned = ""
        if _OTHERS.search(clause) or clause.rstrip(" \"')").endswith("?"):
            is_own = False
        elif _FIRST_PERSON.search(clause):
            is_own = True
        if is_own:
            claimed += mentioned_files(clause)
    return tuple(dict.fromkeys([*claimed, *(mentioned_files(unassigned) if is_own else ())]))


def match_path(name: str, paths: Collection[str]) -> str | None:
    """Return the path to which a name in a message refers: equal to it, or one ends with the other.

    `store.py` and `/workspace/repo/inventory/store.py` both refer to `inventory/store.py`.
    """
    name = name.removeprefix("./")
    if name in paths:
        return name
    ending = [path for path in paths if path.endswith(f"/{name}")]
    if ending:
        return min(ending, key=len)
    return max((path for path in paths if name.endswith(f"/{path}")), key=len, default=None)


def _plain(text: str) -> str:
    return _CODE.sub(" ", _URL.sub(" ", text))


def _sentences(text: str) -> Iterator[str]:
    yield from re.split(r"(?<=[.!?])\s+|\n+", text)


SIXTHS = 6
SIXTH_COLUMNS = tuple(f"messages_sixth{n}" for n in range(1, SIXTHS + 1))
MEASURES = (
    *("turns", "events", "messages", "message_share"),
    *SIXTH_COLUMNS,
    *("first_message_s", "first_message_plan", "plans", "questions", "unanswered", "late"),
    *("with_files", "with_lines", "files_announced", "files_touched", "files_announced_touched"),
)
MESSAGE_COLUMNS = (
    *("number", "sender", "receiver", "time_s", "step", "sixth"),
    *("plan", "question", "answered", "late", "files", "lines"),
)
# The text that mini_swe_agent_v2 puts before a received message (upstream's agents/default.py).
_RECEIVED = re.compile(r"\[(?:Message|Reply) from (\w+)[^\]]*\]: ")
_TOUCHED = re.compile(r'^diff --git "?a/.+?"? "?b/(.+?)"?$', re.MULTILINE)


@dataclass(frozen=True)
class SentMessage:
    """A sent message: its time and turn, and whether it was read and answered."""

    number: int  # 1 for the first message of the run
    sender: str
    receiver: str
    text: str
    time: float | None  # seconds from the first turn of the run
    step: int  # number of the sender's turn; 0: before its first turn
    sixth: int | None  # 1 to 6: the sixth of the run's time
    traits: Traits
    read_before: int | None = (
        None  # first turn of the receiver that could use it; None: unknown or none
    )
    answered: bool = False
    late: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The traits of the message, in words."""
        question = "question, answered" if self.answered else "question without an answer"
        labels = {
            "plan": self.traits.plan,
            question: self.traits.questions > 0,
            "after the receiver's end": self.late,
            f"files: {', '.join(self.traits.files)}": bool(self.traits.files),
            "lines": self.traits.lines,
        }
        return tuple(words for words, applies in labels.items() if applies)

    def row(self) -> dict[str, Any]:
        """Return the row of messages.csv, which omits the text."""
        asks = self.traits.questions > 0
        return {
            "number": self.number,
            "sender": self.sender,
            "receiver": self.receiver,
            "time_s": None if self.time is None else round(self.time, 3),
            "step": self.step,
            "sixth": self.sixth,
            "plan": self.traits.plan,
            "question": asks,
            "answered": self.answered if asks else None,
            "late": self.late,
            "files": ";".join(self.traits.files),
            "lines": self.traits.lines,
        }


@dataclass(frozen=True)
class Communication:
    """The messages of a run, and its measures."""

    messages: tuple[SentMessage, ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)


def changed_paths(patch: str) -> tuple[str, ...]:
    """Return the paths that a patch changes, each once."""
    return tuple(dict.fromkeys(_TOUCHED.findall(patch)))


def measure(history: History, changed_files: Mapping[str, Sequence[str]]) -> Communication:
    """Return the communication of a run.

    Args:
        history: the run's events.
        changed_files: paths that the agents' patches change, by agent.
    """
    messages = _add_reactions(_sent(history), history)
    turns = sum(event.kind == "step" for event in history.events)
    other_events = _other_events(history)
    claims = _claims(messages, changed_files)
    asking = [m for m in messages if m.traits.questions]
    measures: dict[str, Any] = {
        "turns": turns,
        "events": other_events + len(messages),
        "messages": len(messages),
        "message_share": _share(len(messages), other_events + len(messages)),
    }
    for n, column in enumerate(SIXTH_COLUMNS, start=1):
        measures[column] = sum(m.sixth == n for m in messages)
    first = messages[0] if messages else None
    measures |= {
        "first_message_s": None if first is None or first.time is None else round(first.time, 3),
        "first_message_plan": None if first is None else first.traits.plan,
        "plans": sum(m.traits.plan for m in messages),
        "questions": len(asking),
        "unanswered": sum(not m.answered for m in asking),
        "late": sum(m.late for m in messages),
        "with_files": sum(bool(m.traits.files) for m in messages),
        "with_lines": sum(m.traits.lines for m in messages),
        **claims,
    }
    return Communication(messages, measures)


def _sent(history: History) -> tuple[SentMessage, ...]:
    """Return the messages in order, each at the sender's turn."""
    start, end = _span(history.events)
    steps = dict.fromkeys(history.agents, 0)
    messages: list[SentMessage] = []
    for event in history.events:
        if event.kind == "step":
            steps[event.agent] = event.number
        elif event.kind == "message":
            time = None if event.time is None or start is None else event.time - start
            messages.append(
                SentMessage(
                    len(messages) + 1,
                    event.agent,
                    event.to,
                    event.text,
                    time,
                    steps.get(event.agent, 0),
                    _sixth(time, None if start is None or end is None else end - start),
                    read_traits(event.text),
                )
            )
    return tuple(messages)


def _span(events: Sequence[Event]) -> tuple[float | None, float | None]:
    """Return the time of the first turn, and of the last turn, command or message."""
    starts = [e.time for e in events if e.kind == "step" and e.time is not None]
    ends = [e.time for e in events if e.kind in ("step", "message") and e.time is not None]
    ends += [
        event.time + (command.seconds or 0.0)
        for event in events
        for command in event.commands
        if event.time is not None
    ]
    return min(starts, default=None), max(ends, default=None)


def _sixth(time: float | None, length: float | None) -> int | None:
    if time is None or length is None or length <= 0:
        return None
    return min(max(int(SIXTHS * time / length), 0), SIXTHS - 1) + 1


def _add_reactions(messages: Sequence[SentMessage], history: History) -> tuple[SentMessage, ...]:
    """Return the messages with the fields that state whether each was read, answered or late."""
    received = _received(history)
    last_turns = {agent: _turn_times(history, agent) for agent in history.agents}
    start, _ = _span(history.events)
    read_messages: list[SentMessage] = []
    for message in messages:
        before = next(
            (
                number
                for number, sender, text in received.get(message.receiver, [])
                if sender == message.sender and message.text.strip() in text
            ),
            None,
        )
        late = before is None and _is_late(message, last_turns.get(message.receiver, []), start)
        read_messages.append(replace(message, read_before=before, late=late))
    return tuple(
        replace(
            message,
            answered=message.traits.questions > 0
            and any(_answers(reply, message) for reply in read_messages),
        )
        for message in read_messages
    )


def _received(history: History) -> dict[str, list[tuple[int, str, str]]]:
    """Return the messages that each agent received: number of its next turn, sender and text.

    Messages that arrived after the agent's last turn are omitted.
    """
    received: dict[str, list[tuple[int, str, str]]] = {agent: [] for agent in history.agents}
    steps = dict.fromkeys(history.agents, 0)
    last = {event.agent: event.number for event in history.events if event.kind == "step"}
    for event in history.events:
        texts = []
        if event.kind == "step":
            steps[event.agent] = event.number
            texts = [command.output or "" for command in event.commands]
        elif event.kind == "received":
            texts = [event.text]
        for text in texts:
            for match in _RECEIVED.finditer(text):
                following = steps.get(event.agent, 0) + 1
                if following <= last.get(event.agent, 0):
                    entry = (following, match[1], text[match.end() :])
                    received.setdefault(event.agent, []).append(entry)
    return received


def _turn_times(history: History, agent: str) -> list[float]:
    return [
        event.time
        for event in history.events
        if event.kind == "step" and event.agent == agent and event.time is not None
    ]


def _is_late(message: SentMessage, turns: Sequence[float], start: float | None) -> bool:
    """Return whether the receiver had no turn left, except an answer already requested.

    The time of a turn is the arrival of its answer: a turn after the message may have been
    requested before it.
    """
    if message.time is None or start is None or not turns:
        return False
    return sum(time > start + message.time for time in turns) <= 1


def _answers(reply: SentMessage, question: SentMessage) -> bool:
    """Return whether a message to the questioner was sent after the question could be read."""
    if (reply.sender, reply.receiver) != (question.receiver, question.sender):
        return False
    if question.read_before is not None:
        return reply.step >= question.read_before
    if question.time is None or reply.time is None:
        return reply.number > question.number
    return reply.time > question.time


def _other_events(history: History) -> int:
    """Return the number of commands that send no message, and of turns without a command."""
    count = 0
    events = list(history.events)
    sent: dict[str, list[str]] = {agent: [] for agent in history.agents}
    for event in events:
        if event.kind == "message":
            sent.setdefault(event.agent, []).append(event.text.strip())
    for event in events:
        if event.kind != "step":
            continue
        silent = [
            command
            for command in event.commands
            if not any(text and text in command.text for text in sent.get(event.agent, []))
        ]
        count += len(silent) if event.commands else 1
    return count


def _claims(
    messages: Sequence[SentMessage], changed_files: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Return the numbers of files that agents announced, changed, and both."""
    announced = announced_touched = 0
    for agent, paths in changed_files.items():
        names = {name for m in messages if m.sender == agent for name in m.traits.announced}
        path_of = {name: match_path(name, paths) for name in names}
        # Two names of one changed file count once.
        announced_touched += len(set(path_of.values()) - {None})
        announced += len({path or name for name, path in path_of.items()})
    return {
        "files_announced": announced,
        "files_touched": sum(len(set(paths)) for paths in changed_files.values()),
        "files_announced_touched": announced_touched,
    }


def _share(count: int, of: int) -> float | None:
    return round(count / of, 6) if of else None
