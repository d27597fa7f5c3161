"""Replacement of this machine's paths by placeholders in everything that is shared."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperflow import layout, runtime_dir
from cooperflow.experiment.plan import Plan

# Paths that also exist inside containers, and so do not identify a machine.
_COMMON = ("/", "/root", "/home", "/tmp", "/usr", "/opt", "/var", "/workspace", "/patches")


@dataclass(frozen=True)
class Places:
    """Absolute paths and the words that replace them, the longest path first."""

    words: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, plan: Plan) -> Places:
        """Return the paths of a plan: its results, data set, recordings, archive and checkout."""
        config = plan.config
        given: list[tuple[str | None, str]] = [
            (str(plan.results.root), "results"),
            (config.dataset.dir, "dataset"),
            (config.images.archive, "archive"),
            (str(layout.REPOSITORY), "."),
            (str(layout.REPOSITORY / ".venv"), ".venv"),
            (sys.prefix, ".venv"),
            (str(runtime_dir.folder()), "runtime"),
        ]
        for subset in _each(config.dataset.subset):
            if Path(subset).suffix:
                given.append((subset, Path(subset).name))
        for model in config.models.values():
            if model is None:
                continue
            adopted = [path for paths in model.adopt.values() for path in _each(paths)]
            for path in [*_each(model.replay or []), *adopted]:
                given.append((path, Path(path).name))
        return cls.named((path, word) for path, word in given if path)

    @classmethod
    def named(cls, given: Iterable[tuple[str, str]]) -> Places:
        """Return the paths as given and with links resolved."""
        words: dict[str, str] = {}
        for path, word in given:
            for form in (Path(path).absolute(), Path(path).resolve()):
                if str(form) not in _COMMON:
                    words.setdefault(str(form), word)
        return cls(tuple(sorted(words.items(), key=lambda entry: (-len(entry[0]), entry[0]))))

    def text(self, text: str) -> str:
        return self.data(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def data(self, data: bytes) -> bytes:
        """Replace every path that ends where a path may end; also as JSON writes it."""
        for path, word in self.words:
            for form in dict.fromkeys((path, json.dumps(path)[1:-1])):
                raw = form.encode("utf-8", "surrogateescape")
                if raw in data:
                    data = re.sub(
                        re.escape(raw) + rb"(?![\w-])", word.replace("\\", r"\\").encode(), data
                    )
        return data

    def document(self, value: Any) -> Any:
        """Replace the paths in all strings of a document."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.document(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.document(entry) for entry in value]
        return value


def _each(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
