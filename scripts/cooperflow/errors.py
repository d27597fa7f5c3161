"""Exceptions that are shown to the user as a message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix: the text states what is wrong, where and the remedy."""


class DamagedFileError(UserError, ValueError):
    """A file that the workflow wrote cannot be read."""


class EngineError(Exception):
    """The Docker engine does not answer or refuses a request."""


class StoreError(Exception):
    """The message store of a run does not start, or its agents cannot reach it."""


def suggest(word: object, allowed: Iterable[object]) -> str:
    """Return `` Did you mean X?`` if ``word`` looks like a typo of X, an ``allowed`` word."""
    close = difflib.get_close_matches(str(word), [str(a) for a in allowed], n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def listed(words: Iterable[object], limit: int = 12) -> str:
    """Return ``words`` as a comma-separated list for a message, at most ``limit`` of them."""
    all_words = [str(w) for w in words]
    text = ", ".join(all_words[:limit])
    return text + (f", ... ({len(all_words)} in all)" if len(all_words) > limit else "")
