"""Write config/schema.json and the table of keys in config/README.md from the config's model."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import atomic_io, layout
from cooperflow.experiment import config_schema

PATH = layout.REPOSITORY / "config" / "schema.json"
README = PATH.with_name("README.md")
# The lines around the table.
TABLE_START = "<!-- Table of keys, written by `make schema` -->\n"
TABLE_END = "<!-- End of the table -->\n"


def text() -> str:
    return json.dumps(config_schema.Config.model_json_schema(), indent=2) + "\n"


def table() -> str:
    """Return the table of keys in Markdown."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    return "\n".join([*lines, *_rows(config_schema.Config.model_json_schema(), "")]) + "\n"


def _rows(schema: dict[str, Any], prefix: str, root: dict[str, Any] | None = None) -> Iterator[str]:
    """Return a table row for each key, including the keys of nested tables."""
    root = root or schema
    for name, field in schema["properties"].items():
        reference = field.get("$ref") or _entry_reference(field)
        nested = root["$defs"][reference.rpartition("/")[2]] if reference else None
        has_entries = "additionalProperties" in field and field["type"] == "object"
        is_named = has_entries and name in ("models", "settings", "providers")
        key = f"{prefix}{name}.NAME" if is_named else f"{prefix}{name}"
        if nested is None or is_named:
            is_required = name in schema.get("required", ()) or is_named
            default = "" if is_required else f"`{json.dumps(_default(field)).strip(chr(34))}`"
            yield f"| `{key}` | {default} | {field['description']} |"
        if nested is not None and not prefix:
            yield from _rows(nested, f"{key}.", root)


def _entry_reference(field: dict[str, Any]) -> str | None:
    entries = field.get("additionalProperties")
    options = entries.get("anyOf", []) if isinstance(entries, dict) else []
    return next((option["$ref"] for option in options if "$ref" in option), None)


def _default(field: dict[str, Any]) -> Any:
    return field.get("default", [] if field.get("type") == "array" else {})


def readme() -> str:
    """Return config/README.md with the current table."""
    head, _, rest = README.read_text(encoding="utf-8").partition(TABLE_START)
    return f"{head}{TABLE_START}{table()}{TABLE_END}{rest.partition(TABLE_END)[2]}"


if __name__ == "__main__":
    atomic_io.write_text(PATH, text())
    atomic_io.write_text(README, readme())
    sys.exit(0)
