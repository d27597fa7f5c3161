"""What the report shows of provenance.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cooperflow import atomic_io


def shown(root: Path) -> dict[str, Any] | None:
    """Return the facts, and the documents to fold, of a results folder's provenance."""
    document = atomic_io.read_json(root / "provenance.json")
    if not isinstance(document, dict):
        return None
    facts = [(key, str(value)) for key, value in (document.get("facts") or {}).items()]
    labels = (
        ("config", "The config as asked for"),
        ("experiments", "The experiments as resolved"),
        ("images", "Images"),
        ("tasks", "Hashes of the tasks"),
        ("packages", "Versions of the packages"),
    )
    return {
        "facts": facts,
        "documents": [
            (label, json.dumps(document[key], indent=2, ensure_ascii=False))
            for key, label in labels
            if document.get(key)
        ],
    }
