"""Rules that describe the text of a message: plan, question, files and lines. Pure.

Each rule is a plain pattern on English text, chosen so that a reader can check it by hand. A rule
finds words, not intentions: docs/results.md lists what each one misses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

# Endings of names that count as files of a repository.
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

# Words in a clause that name the sender's or the other agent's work.
_OTHERS = re.compile(
    r"\b(?:you|your|yours|you're|you\u2019re|not|never|without|avoid|except|neither|nor)\b"
    r"|n['\u2019]t\b|\balone\b|\buntouched\b|\bunchanged\b",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\b(?:i|i'm|i\u2019m|i'll|i\u2019ll|me|my|mine|we|we'll|our|ours)\b", re.IGNORECASE
)
_CLAUSE = re.compile(r"(?<=[.!?;,:])\s+|\n+")


@dataclass(frozen=True)
class Findings:
    """Findings of the rules in a message."""

    plan: bool
    questions: int
    files: tuple[str, ...]
    announced: tuple[str, ...]  # files that the sender claims for itself
    lines: bool


def describe(text: str) -> Findings:
    """Return the findings of the rules in the text of a message."""
    return Findings(
        is_plan(text), count_questions(text), files(text), announced(text), names_lines(text)
    )


def is_plan(text: str) -> bool:
    """Return whether the sender states what it does or will do.

    A plan, proposal or approach by name, or the first person with will, shall, intend, propose,
    suggest, plan, an -ing form or a verb of work (add, change, take, ...). Questions are left out.
    """
    return any(
        _PLAN.search(sentence) and not sentence.rstrip(" \"')*_").endswith("?")
        for sentence in _sentences(_plain(text))
    )


def count_questions(text: str) -> int:
    """Return the number of question marks that end a word, outside of code and URLs."""
    return len(_QUESTION.findall(re.sub(r"\?+", "?", _plain(text))))


def files(text: str) -> tuple[str, ...]:
    """Return the names of files in a text, each once: words with the ending of a source file."""
    return tuple(dict.fromkeys(_FILE.findall(_URL.sub(" ", text))))


def names_lines(text: str) -> bool:
    """Return whether a text names a line by its number: line 12, L12, store.py:12."""
    return bool(_LINE.search(_URL.sub(" ", text)))


def announced(text: str) -> tuple[str, ...]:
    """Return the files that the sender claims for itself.

    A text is cut into clauses at `. ! ? ; , :` and line breaks. A clause with a word for the other
    agent or a negation (you, yours, not, never, alone, ...) and a question claim nothing; a clause
    in the first person claims the files that it names. A clause of neither kind is like the one
    before it.
    """
    claimed: list[str] = []
    is_own = False
    waiting = ""  # names of files before the clause that assigns them: "a.py, b.py are yours"
    for part in _CLAUSE.split(_URL.sub(" ", text)):
        clause = f"{waiting} {part}".strip()
        if part.endswith(",") and _FILE.fullmatch(part[:-1]):
            waiting = clause
            continue
        waiting = ""
        if _OTHERS.search(clause) or clause.rstrip(" \"')").endswith("?"):
            is_own = False
        elif _OWN.search(clause):
            is_own = True
        if is_own:
            claimed += files(clause)
    return tuple(dict.fromkeys([*claimed, *(files(waiting) if is_own else ())]))


def same_file(name: str, paths: Collection[str]) -> str | None:
    """Return the path that a name in a message refers to: equal, an ending of it, or a longer one.

    `store.py` and `/workspace/repo/inventory/store.py` both name `inventory/store.py`.
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
