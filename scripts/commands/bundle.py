"""Pack the files that a reviewer needs into one archive, or check such an archive.

The archive's description is an RO-Crate 1.1. Source: P. Sefton et al., "RO-Crate Metadata
Specification 1.1" (2020), w3id.org/ro/crate/1.1.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import mimetypes
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import atomic_io, formats, layout, redaction
from cooperflow.archive import provenance
from cooperflow.errors import UserError
from cooperflow.experiment import pairs
from cooperflow.experiment.config_schema import Config
from cooperflow.experiment.plan import Plan
from cooperflow.jobs import entry_points
from cooperflow.tables import derived_tables, run_table

NAME = "bundle.tar.gz"
MANIFEST = "MANIFEST.json"
CONFIG = "config.json"
PAIRS = "pairs.csv"
RESULTS = "results"
# Files that are made from others, or are useless elsewhere.
LEFT_OUT = {"report", "partial", "export"}
LOCKS = ("envs/requirements.txt", "pyproject.toml")


def main() -> int:
    parser = entry_points.config_parser(__doc__)
    parser.add_argument("--check", type=Path, metavar="FILE", help="check this archive")
    arguments = parser.parse_args()
    if arguments.check is None:
        plan = entry_points.load_plan(arguments.configfile)
        if not plan.results.summary_csv.is_file():
            raise UserError(
                f"{plan.results.summary_csv} is missing. Run `snakemake -j 4 all` first."
            )
        path = pack(plan, provenance.secrets_of(plan))
        print(f"{path}: {formats.size(path.stat().st_size)}")
        return 0
    checks = check(arguments.check)
    for entry in checks:
        print(f"{'good' if entry.is_good else 'BAD ':<5}{entry.name}: {entry.detail}")
    return 0 if all(entry.is_good for entry in checks) else 1


@dataclass(frozen=True)
class Check:
    """Result of the check of one table or file."""

    name: str
    is_good: bool
    detail: str


def pack(plan: Plan, secrets: Sequence[str] = ()) -> Path:
    """Write the archive beside the tables and return its path; equal results give equal bytes.

    Args:
        secrets: values that no file may contain.
    """
    target = plan.results.root / NAME
    temporary = target.with_name(f".{NAME}.tmp")
    hashes: dict[str, str] = {}
    sizes: dict[str, int] = {}
    redactor, paths = redaction.Redactor.of(secrets), provenance.PortablePaths.of(plan)
    with (
        _removed_on_failure(temporary),
        temporary.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, data in _contents(plan):
            data = paths.data(redactor.data(data))
            hashes[name] = hashlib.sha256(data).hexdigest()
            sizes[name] = len(data)
            _add(archive, name, data)
        crate = paths.data(redactor.data(_crate(plan, hashes, sizes)))
        hashes[CRATE] = hashlib.sha256(crate).hexdigest()
        _add(archive, CRATE, crate)
        _add(archive, MANIFEST, json.dumps(hashes, indent=1, sort_keys=True).encode())
    os.replace(temporary, target)
    return target


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _crate(plan: Plan, hashes: Mapping[str, str], sizes: Mapping[str, int]) -> bytes:
    """Return the RO-Crate metadata, with times and versions from provenance.json."""
    files = {name: CrateFile(hashes[name], sizes[name]) for name in hashes}
    crate = crate_metadata(files, atomic_io.read_object(plan.results.provenance))
    return json.dumps(crate, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")


def check(archive: Path) -> list[Check]:
    """Recompute every table of an archive and compare it with the archived table.

    Raises:
        UserError: it is not a bundle of this workflow.
    """
    with tempfile.TemporaryDirectory(prefix="cooperflow-bundle-") as directory:
        folder = Path(directory)
        try:
            with tarfile.open(archive) as stream:
                _unpack(stream, folder)
            hashes = json.loads((folder / MANIFEST).read_bytes())
            if not isinstance(hashes, dict):
                raise ValueError(f"{MANIFEST} is not a table")
            plan = _plan(folder)
        # EOFError: the archive is truncated.
        except (OSError, EOFError, tarfile.TarError, TypeError, ValueError) as error:
            detail = str(error).replace(f"{folder}/", "")
            raise UserError(
                f"{archive} is not a bundle of this workflow, or incomplete ({detail})."
            ) from error
        return [*_files(folder, hashes), *_tables(folder, recompute_tables(plan))]


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract an archive's regular files into a folder, and nothing outside of it.

    `extractall` has a filter for this only since Python 3.11.4.
    """
    for member in archive:
        parts = PurePosixPath(member.name).parts
        if not member.isfile() or ".." in parts or member.name.startswith("/"):
            raise ValueError(f"{member.name!r} is not a plain file of a bundle")
        content = archive.extractfile(member)
        assert content is not None  # true for every regular file
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.read())


def recompute_tables(plan: Plan) -> Mapping[str, str]:
    """Return every table that can be computed from the runs, by its path in the results folder.

    The statistics are computed from runs.csv as written, whose numbers are rounded.
    """
    _, summary = recomputed_tables = run_table.collect(plan, partial=True)
    results = plan.results
    with tempfile.TemporaryDirectory(prefix="cooperflow-tables-") as directory:
        copy = layout.Results(Path(directory))
        run_table.write(copy, *recomputed_tables)
        text = copy.runs_csv.read_text(encoding="utf-8")
        runs = run_table.read_runs(copy.runs_csv)
    frames = derived_tables.tables(plan, runs)
    paths = {
        results.runs_csv: text,
        results.summary_csv: summary.to_csv(index=False),
        **{path: frame.to_csv(index=False) for path, frame in frames.items()},
    }
    return {str(path.relative_to(results.root)): text for path, text in paths.items()}


def _contents(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Yield the files to pack in order: name in the archive and content."""
    config = provenance.remove_secrets(plan.config.model_dump())
    config["results"] = RESULTS
    yield CONFIG, json.dumps(config, indent=2).encode()
    yield PAIRS, _pairs(plan)
    for name in LOCKS:
        yield name, (layout.REPOSITORY / name).read_bytes()
    root = plan.results.root
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and (parent != str(root) or f not in LEFT_OUT)
        )
        for name in sorted(names):
            path = Path(parent) / name
            if name != NAME and not name.startswith(".") and not path.is_symlink():
                # Uncompressed, so that keys and paths can be found in every file.
                for plain, data in atomic_io.file_contents(path):
                    yield f"{RESULTS}/{plain.relative_to(root)}", data


def _pairs(plan: Plan) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(pairs.COLUMNS)
    for pair in plan.pairs:
        table.writerow([pair.repo, pair.task_id, *pair.features])
    return text.getvalue().encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file without its time, machine and user."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
    archive.addfile(entry, io.BytesIO(data))


def _plan(folder: Path) -> Plan:
    """Return the plan in an unpacked bundle; its data set need not exist."""
    document = json.loads((folder / CONFIG).read_bytes())
    config = Config.model_validate({**document, "results": str(folder / RESULTS)})
    return Plan(config, tuple(pairs.load(str(folder / PAIRS), folder)))


def _files(folder: Path, hashes: Mapping[str, str]) -> Iterator[Check]:
    bad = [
        name
        for name, expected in hashes.items()
        if not (folder / name).is_file() or provenance.file_hash(folder / name) != expected
    ]
    archived = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        MANIFEST
    }
    bad += sorted(archived - set(hashes))
    summary = f"{len(hashes)} files match the manifest"
    yield Check("files", not bad, f"{', '.join(bad[:5])} differ" if bad else summary)


def _tables(folder: Path, recomputed_tables: Mapping[str, str]) -> Iterator[Check]:
    for path in sorted((folder / RESULTS).rglob("*.csv")):
        name = str(path.relative_to(folder / RESULTS))
        if name.startswith("runs/"):
            continue
        if name not in recomputed_tables:
            yield Check(name, True, "not recomputed")
            continue
        packed, computed = path.read_text(encoding="utf-8"), recomputed_tables[name]
        rows = len(packed.splitlines()) - 1
        yield Check(
            name, packed == computed, _difference(packed, computed) or f"{rows} rows, the same"
        )
    for name in sorted(recomputed_tables):
        if not (folder / RESULTS / name).is_file():
            yield Check(name, False, "is missing")


def _difference(packed: str, computed: str) -> str:
    old, new = packed.splitlines(), computed.splitlines()
    if old == new:
        return ""
    if old[:1] != new[:1]:
        return _difference_of_columns(packed, computed)
    for number, (a, b) in enumerate(zip(old, new, strict=False), start=1):
        if a != b:
            return f"line {number} differs:\n  packed:   {a}\n  computed: {b}"
    return f"{len(old)} lines packed, {len(new)} computed"


def _difference_of_columns(packed: str, computed: str) -> str:
    """Return the columns that only one table has, and whether the shared columns are equal."""
    old, new = (list(csv.reader(io.StringIO(text))) for text in (packed, computed))
    columns = [rows[0] if rows else [] for rows in (old, new)]
    shared = [name for name in columns[0] if name in columns[1]]
    parts = []
    for words, own_columns, other in (
        ("packed without", columns[1], columns[0]),
        ("computed without", columns[0], columns[1]),
    ):
        if missing := [name for name in own_columns if name not in other]:
            parts.append(f"{words} {', '.join(missing)}")
    cells = [
        [[row[heads.index(name)] for name in shared] for row in rows if len(row) == len(heads)]
        for rows, heads in zip((old, new), columns, strict=True)
    ]
    same = "the other columns are the same" if cells[0] == cells[1] else "other columns differ too"
    order = "the columns have another order" if not parts else "; ".join(parts)
    return f"another version wrote it: {order}; {same}"


CRATE = "ro-crate-metadata.json"
_PROFILE = "https://w3id.org/ro/crate/1.1"
_WORKFLOW = "#workflow"
_RUN = "#runs"
_TABLES = ("results/runs.csv", "results/summary.csv", "results/comparison.csv")
_LICENCE = "Not stated for the results. The workflow is under the MIT licence."


@dataclass(frozen=True)
class CrateFile:
    """A file of the archive."""

    sha256: str
    size: int


def crate_metadata(files: Mapping[str, CrateFile], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata document of an archive.

    Args:
        files: the files by name in the archive, without the metadata document.
        document: provenance.json; empty without one.
    """
    facts = document.get("facts") or {}
    config = document.get("config") or {}
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
                "@id": CRATE,
                "@type": "CreativeWork",
                "conformsTo": {"@id": _PROFILE},
                "about": {"@id": "./"},
            },
            root,
            action,
            *_software(facts, document.get("packages") or {}),
            {
                "@id": "https://arxiv.org/abs/2601.13295",
                "@type": "ScholarlyArticle",
                "name": "CooperBench: Why Coding Agents Cannot be Your Teammates Yet",
            },
            *(_crate_file(name, files[name]) for name in sorted(files)),
        ],
    }


def _software(facts: Mapping[str, Any], packages: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of the workflow and its packages."""
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


def _crate_file(name: str, file: CrateFile) -> dict[str, Any]:
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
    """Return a time in provenance.json as ISO 8601; empty without one."""
    text = str(value or "")
    return text.removesuffix(" UTC").replace(" ", "T") + "Z" if text.endswith(" UTC") else ""


if __name__ == "__main__":
    entry_points.run_command(main)
