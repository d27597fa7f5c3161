"""Description of the archive for reviewers as an RO-Crate 1.1. Pure.

Source: P. Sefton et al., "RO-Crate Metadata Specification 1.1" (2020), w3id.org/ro/crate/1.1.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

NAME = "ro-crate-metadata.json"
_PROFILE = "https://w3id.org/ro/crate/1.1"
_WORKFLOW = "#workflow"
_RUN = "#runs"
_TABLES = ("results/runs.csv", "results/summary.csv", "results/comparison.csv")
_LICENCE = "Not stated for the results. The workflow is under the MIT licence."


@dataclass(frozen=True)
class File:
    """A file of the archive."""

    sha256: str
    size: int


def metadata(files: Mapping[str, File], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata document of an archive.

    Args:
        files: by name in the archive, the document itself excluded.
        provenance: provenance.json; empty if there is none.
    """
    facts = provenance.get("facts") or {}
    config = provenance.get("config") or {}
    models = ", ".join(config.get("models") or {}) or "unknown models"
    parts = [{"@id": _id(name)} for name in sorted(files)]
    replay = " Recorded answers were played: not results of any model."
    started, ended = (_moment(facts.get(key)) for key in ("first attempt", "last attempt"))
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"CooperBench results: {models}",
        "description": "Two coding agents together and one alone: runs, evaluations and tables of"
        f" {facts.get('subset', 'an unknown subset')}."
        + (replay if facts.get("replay") == "yes" else ""),
        **({"datePublished": ended} if ended else {}),
        "license": _LICENCE,
        "hasPart": parts,
        "mentions": {"@id": _RUN},
        "citation": {"@id": "https://arxiv.org/abs/2601.13295"},
    }
    action = {
        "@id": _RUN,
        "@type": "CreateAction",
        "name": "Runs and evaluations",
        "instrument": {"@id": _WORKFLOW},
        **({"startTime": started} if started else {}),
        **({"endTime": ended} if ended else {}),
        "result": [{"@id": _id(name)} for name in _TABLES if name in files],
    }
    return {
        "@context": f"{_PROFILE}/context",
        "@graph": [
            {
                "@id": NAME,
                "@type": "CreativeWork",
                "conformsTo": {"@id": _PROFILE},
                "about": {"@id": "./"},
            },
            root,
            action,
            *_software(facts, provenance.get("packages") or {}),
            {
                "@id": "https://arxiv.org/abs/2601.13295",
                "@type": "ScholarlyArticle",
                "name": "CooperBench: Why Coding Agents Cannot be Your Teammates Yet",
            },
            *(_file(name, files[name]) for name in sorted(files)),
        ],
    }


def _software(facts: Mapping[str, Any], packages: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the workflow and the packages that it uses."""
    name, _, version = str(facts.get("workflow") or "cooperflow").partition(" ")
    return [
        {
            "@id": _WORKFLOW,
            "@type": "SoftwareApplication",
            "name": name,
            **({"softwareVersion": version} if version else {}),
            "identifier": str(facts.get("git commit") or "unknown commit"),
            "softwareRequirements": [{"@id": f"#{package}"} for package in sorted(packages)],
        },
        *(
            {
                "@id": f"#{package}",
                "@type": "SoftwareApplication",
                "name": package,
                "softwareVersion": str(packages[package]),
            }
            for package in sorted(packages)
        ),
    ]


def _file(name: str, file: File) -> dict[str, Any]:
    kind = mimetypes.guess_type(name)[0]
    if name.endswith(".jsonl"):
        kind = "application/jsonl"
    return {
        "@id": _id(name),
        "@type": "File",
        "name": name,
        "contentSize": str(file.size),
        "sha256": file.sha256,
        **({"encodingFormat": kind} if kind else {}),
    }


def _id(name: str) -> str:
    return quote(name, errors="surrogateescape")


def _moment(value: object) -> str:
    """Return a time of provenance.json as ISO 8601; empty if it has none."""
    text = str(value or "")
    return text.removesuffix(" UTC").replace(" ", "T") + "Z" if text.endswith(" UTC") else ""
