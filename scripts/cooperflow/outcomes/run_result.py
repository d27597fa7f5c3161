"""Result of a run: records, publication of result and verdict, restoration from an attempt.

The records are the object `workflow` of result.json and eval.json, and attempt.json.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from cooperflow import atomic_io, layout
from cooperflow.experiment.config_schema import UNRECORDED
from cooperflow.experiment.plan import Run
from cooperflow.layout import Results, RunFolder
from cooperflow.outcomes import judgement, patch_text, usage
from cooperflow.outcomes.judgement import CallsEnd, Evidence, Verdict
from cooperflow.outcomes.usage import Usage
from cooperflow.upstream import result_files, trajectory
from cooperflow.upstream.result_files import AgentEnd

SCHEMA = 1

# States of an attempt.
RUNNING, ENDED, INTERRUPTED = "running", "ended", "interrupted"


class Record:
    """Base of the records, which other versions may have written with fewer or more keys."""

    @classmethod
    def _from(cls, part: Mapping[str, Any], **fields_given: Any) -> Self:
        """Return the record in a JSON object; missing keys and null get the default."""
        values = {k: v for k, v in _known(cls, part).items() if v is not None}
        return cls(**{**values, **fields_given})

    def as_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class RunRecord(Record):
    """`workflow` in result.json. outcome None: the tests have not decided yet.

    Costs and tokens are sums over all attempts; seconds and steps belong to the last attempt.
    """

    outcome: str | None = None
    reason: str = ""
    attempts: int = 0
    usage: Usage = field(default_factory=Usage)
    model_name: str = ""
    setting: str = ""
    replay: bool = False
    image_id: str | None = None
    fingerprint: str | None = None
    seconds: float = 0.0
    waited_seconds: float = 0.0
    model_seconds: float = 0.0
    steps: int = 0
    messages_sent: int = 0
    patch_lines: int = 0
    started: float | None = None
    ended: float | None = None
    cut_answers: int = 0  # ended at the limit of output tokens, in the last attempt
    adopted: bool = False  # plain cooperbench made it, without a call log
    caveats: Sequence[str] = ()  # of an adopted run

    @classmethod
    def read(cls, document: Any) -> RunRecord | None:
        """Return the record in a result.json, None if it has no record."""
        part = result_files.workflow(document)
        return cls._from(part, usage=Usage.read(part)) if part else None

    @property
    def is_paid(self) -> bool:
        """True if this workflow called a model for the run."""
        return not (self.replay or self.adopted)

    def as_dict(self) -> dict[str, Any]:
        document = super().as_dict()
        usage = document.pop("usage")
        if not self.caveats:
            del document["caveats"]
        return {**document, **usage}


@dataclass(frozen=True)
class EvalRecord(Record):
    """`workflow` in eval.json: the run's final outcome. tests_passed None: no test was run."""

    outcome: str = ""
    reason: str = ""
    caveat: str = ""
    seconds: float = 0.0
    tests_passed: tuple[int, int] | None = None

    @classmethod
    def read(cls, document: Any) -> EvalRecord:
        """Return the record in an eval.json; its outcome is empty if the document has no record."""
        return cls._from(result_files.workflow(document))


@dataclass(frozen=True)
class AttemptRecord(Record):
    """attempt.json: written at an attempt's start, and again at its end.

    state: RUNNING, ENDED, INTERRUPTED; empty where the file is missing or incomplete.
    """

    number: int
    state: str = ""
    started: float = 0.0  # 0: unknown
    process: str = ""
    ended: float | None = None
    outcome: str | None = None
    reason: str = ""
    evidence: Mapping[str, Any] | None = None
    image_id: str | None = None

    @classmethod
    def read(cls, folder: RunFolder, number: int) -> AttemptRecord:
        """Return the record of an attempt at a run."""
        document = atomic_io.read_object(folder.attempt(number) / layout.ATTEMPT)
        return cls._from(document, number=number)

    @classmethod
    def read_newest(cls, folder: RunFolder) -> AttemptRecord | None:
        """Return the record of the newest attempt at a run, None before the first."""
        numbers = folder.attempt_numbers()
        return cls.read(folder, numbers[-1]) if numbers else None


@dataclass(frozen=True)
class Unpublished:
    """An attempt that decided its run but is not published as the result yet."""

    record: AttemptRecord
    evidence: Evidence
    document: Mapping[str, Any] | None  # upstream's, None without one


def publish(
    run: Run,
    folder: RunFolder,
    ended: AttemptRecord,
    document: Mapping[str, Any] | None,
    evidence: Evidence,
    fingerprint: str | None,
) -> dict[str, Any]:
    """Publish an attempt that has ended as the run's result.

    A copy stays in the attempt's folder. If result.json is removed, the paid result is restored
    from this copy.

    Args:
        document: upstream's document, None without one.
    """
    attempt, started = ended.number, ended.started
    full_document = (
        dict(document) if document is not None else _result_of_upstream_form(run, evidence, started)
    )
    full_document["log_dir"] = str(folder.path)
    upstream = move_upstream_files(run, folder.attempt(attempt))
    record = RunRecord(
        outcome=ended.outcome,
        reason=ended.reason,
        attempts=len(folder.attempt_numbers()),
        usage=usage_of_run(folder, run.experiment.agent.name),
        model_name=run.experiment.model_name,
        setting=run.experiment.setting.name,
        replay=run.experiment.model.replay is not None,
        image_id=ended.image_id,
        fingerprint=fingerprint,
        seconds=round(evidence.seconds, 3),
        waited_seconds=round(
            evidence.rate_limit_delay + max((c.waited for c in evidence.calls), default=0.0), 3
        ),
        model_seconds=round(usage.model_seconds(attempt_calls(folder.attempt(attempt))), 3),
        steps=sum(agent.steps for agent in evidence.agents),
        messages_sent=_messages(run, folder.attempt(attempt), upstream, full_document),
        patch_lines=sum(_lines(path) for path in sorted(upstream.glob("*.patch"))),
        started=started,
        ended=time.time(),
        cut_answers=evidence.cut_answers,
    )
    full_document["workflow"] = record.as_dict()
    folder.eval.unlink(missing_ok=True)
    folder.own.unlink(missing_ok=True)
    # From here on the attempt counts: restore() completes a publication interrupted by a kill.
    atomic_io.write_json(folder.attempt(attempt) / layout.RESULT, full_document)
    _link_files(folder, upstream, full_document)
    # Last, so that neither a full disk nor a kill during compression loses a paid attempt.
    compress_attempt(folder.attempt(attempt))
    return full_document


def restore(run: Run, folder: RunFolder) -> dict[str, Any] | None:
    """Restore a missing result.json from an attempt that is not retired."""
    for attempt, document in _attempt_results(folder):
        _link_files(folder, upstream_folder(run, attempt), document)
        return document
    return None


def is_restorable(run: Run, folder: RunFolder) -> bool:
    """Return whether an attempt that is not retired has the run's result."""
    return any(_attempt_results(folder)) or find_unpublished(run, folder) is not None


def find_unpublished(run: Run, folder: RunFolder) -> Unpublished | None:
    """Return the newest attempt if it decided the run and has no complete result.

    Its job was killed, or its disk was full, before it could publish; or the result is damaged. A
    run that must still be evaluated has no outcome yet.
    """
    record = AttemptRecord.read_newest(folder)
    if record is None or record.state != ENDED or record.outcome == judgement.INFRA_ERROR:
        return None
    attempt = folder.attempt(record.number)
    if (attempt / layout.RETIRED).exists() or "document" not in (record.evidence or {}):
        return None
    evidence, document = read_evidence(record), read_upstream_document(run, attempt)
    if evidence.document and document is None:
        return None
    return Unpublished(record, evidence, document)


def read_evidence(record: AttemptRecord) -> Evidence:
    """Return the evidence of an attempt that has ended; another version may have written it."""
    part = dict(record.evidence or {})
    agents = tuple(AgentEnd(**_known(AgentEnd, agent)) for agent in part.get("agents") or ())
    calls = tuple(CallsEnd(**_known(CallsEnd, ends)) for ends in part.get("calls") or ())
    return Evidence(**{**_known(Evidence, part), "agents": agents, "calls": calls})


def _known(record: Any, part: Mapping[str, Any]) -> dict[str, Any]:
    names = {entry.name for entry in fields(record)}
    return {name: value for name, value in part.items() if name in names}


def read_upstream_document(run: Run, attempt: Path) -> dict[str, Any] | None:
    """Return upstream's result.json, None unless it is complete and belongs to this pair."""
    document = atomic_io.read_json(upstream_folder(run, attempt) / layout.RESULT)
    is_complete = isinstance(document, dict) and run.pair.is_named_in(document)
    return document if is_complete else None


def _attempt_results(folder: RunFolder) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the attempts that have a result, the last one first, with their documents."""
    for number in reversed(folder.attempt_numbers()):
        document = atomic_io.read_json(folder.attempt(number) / layout.RESULT)
        if isinstance(document, dict) and "workflow" in document:
            yield folder.attempt(number), document


def upstream_folder(run: Run, attempt: Path) -> Path:
    """Return the folder that contains upstream's results of an attempt."""
    finished = attempt / layout.UPSTREAM
    return finished if finished.is_dir() else output_folder(run, attempt)


def output_folder(run: Run, attempt: Path) -> Path:
    """Return the folder into which upstream writes the results of a running attempt."""
    experiment = run.experiment
    return attempt / "logs" / experiment.run_name / experiment.setting.mode / run.pair.folder


def move_upstream_files(run: Run, attempt: Path) -> Path:
    """Move upstream's results of an ended attempt out of nested folders; return the new folder.

    If the process is killed, the next call completes the move.
    """
    output, finished = output_folder(run, attempt), attempt / layout.UPSTREAM
    if output.is_dir() and not finished.exists():
        with contextlib.suppress(OSError):  # the files can be read in either place
            output.rename(finished)
    if finished.is_dir():
        # Upstream's tables of this single run, which contain nothing beyond its result.json.
        for name in result_files.TABLES:
            (attempt / "logs" / run.experiment.run_name / name).unlink(missing_ok=True)
    for parent, _, _ in os.walk(attempt / "logs", topdown=False):
        with contextlib.suppress(OSError):  # the folder is not empty
            os.rmdir(parent)
    return upstream_folder(run, attempt)


def compress_attempt(attempt: Path) -> None:
    """Compress the large files of an attempt that has ended, as far as the disk allows.

    Plain files remain readable, so an error here is not an error of the run.
    """
    with contextlib.suppress(OSError):
        atomic_io.compress_below(attempt, is_compressible)


def is_compressible(name: str) -> bool:
    """Return whether a file of an ended attempt is compressed.

    Upstream's files stay plain, because other programs read them in the run's folder.
    """
    return name in (layout.CALLS, layout.EVENTS) or name.endswith(".log")


def _link_files(folder: RunFolder, upstream: Path, document: Mapping[str, Any]) -> None:
    """Link upstream's files into the run's folder, result.json last. Idempotent.

    Hidden files are not upstream's: they are partial files, or files in use that NFS renamed.
    """
    for stale in folder.path.iterdir():
        kept = stale.name in (layout.RESULT, layout.EVAL, layout.OWN) or stale.name.startswith(".")
        if stale.is_file() and not kept:
            stale.unlink()
    if upstream.is_dir():
        for path in upstream.iterdir():
            is_wanted = path.name != layout.RESULT and not path.name.startswith(".")
            if path.is_file() and is_wanted:
                _link_file(path, folder.path / path.name)
    atomic_io.write_json(folder.result, document)


def _link_file(path: Path, name: Path) -> None:
    """Link a file of an attempt; copy it if the file system has no hard links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copy2(path, name)


def verdict_of(document: Mapping[str, Any] | None, patches: Path, reason: str) -> Verdict:
    """Return the verdict by upstream's eval.json on the patches in the folder ``patches``."""
    contents = [path.read_bytes() for path in sorted(patches.glob("*.patch"))]
    return judgement.judge_eval(
        document,
        [patch_text.is_empty(content) for content in contents],
        reason,
        max(map(len, contents), default=0),
        patch_text.collect_caveats(contents),
    )


def publish_verdict(
    results: Results,
    run: Run,
    document: Mapping[str, Any],
    verdict: Verdict,
    seconds: float,
    caveats: Sequence[str] = (),
) -> None:
    """Write eval.json with the run's final outcome, and mark the tables as outdated.

    Args:
        caveats: caveats of the run if its result.json is not written yet.
    """
    assert verdict.outcome is not None
    folder = run.folder(results)
    outputs = [result_files.output_of(document, number) for number in (1, 2)]
    record = EvalRecord(
        outcome=verdict.outcome,
        reason=verdict.reason,
        caveat=_merge_caveats(folder, verdict, caveats),
        seconds=round(seconds, 3),
        tests_passed=(judgement.count_tests(outputs[0]), judgement.count_tests(outputs[1])),
    )
    is_broken = verdict.reason == judgement.EVAL_ERROR
    complete = {**document, "workflow": record.as_dict()}
    write_evaluation(results, folder.eval, complete, run.dashed, run.key, is_broken)
    make_stale(results, folder.eval)


def _merge_caveats(folder: RunFolder, verdict: Verdict, others: Sequence[str]) -> str:
    """Return the caveats of the evaluation and the run."""
    record = RunRecord.read(atomic_io.read_json(folder.result)) or RunRecord()
    limit = [judgement.OUTPUT_LIMIT] if record.cut_answers else []
    caveats = [*filter(None, [verdict.caveat]), *limit, *(record.caveats or others)]
    return ";".join(dict.fromkeys(caveats))


def untested_document(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Return an eval.json in upstream's format for a run that was not tested."""
    feature = {"passed": False, "test_output": ""}
    has_error = verdict.outcome == judgement.INFRA_ERROR
    return {
        **run.pair.identity,
        "setting": run.experiment.setting.mode,
        "merge": None,
        "feature1": feature,
        "feature2": feature,
        "both_passed": False,
        "error": f"{verdict.outcome}: {verdict.reason}" if has_error else None,
        "evaluated_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def make_stale(results: Results, newer: Path) -> None:
    """Set the times of the tables to before that of ``newer``, even if the clock was set back."""
    for table in (results.runs_csv, results.summary_csv):
        with contextlib.suppress(FileNotFoundError):
            if table.stat().st_mtime_ns >= newer.stat().st_mtime_ns:
                os.utime(table, (0, 0))


def attempt_calls(attempt: Path) -> list[usage.Call]:
    """Return the model calls of one attempt."""
    return usage.calls(atomic_io.read_lines(attempt / layout.CALLS))


def usage_of_run(folder: RunFolder, agent: str = "") -> Usage:
    """Return the usage of all attempts of a run, including killed ones.

    Args:
        agent: the framework; the cost of a framework whose calls are not recorded is incomplete.
    """
    total = Usage()
    for number in folder.attempt_numbers():
        total += _attempt_usage(folder.attempt(number), agent in UNRECORDED)
    return total


def _attempt_usage(attempt: Path, is_unrecorded: bool) -> Usage:
    calls = attempt_calls(attempt)
    if calls:
        return usage.total(calls)
    # The agent's program made the calls elsewhere; upstream's document gives a lower bound.
    paths = [attempt / layout.UPSTREAM / layout.RESULT]
    paths += sorted(attempt.glob(f"logs/*/*/*/*/*/{layout.RESULT}"))
    document = next((atomic_io.read_object(path) for path in paths if path.is_file()), {})
    entries = result_files.agent_entries(document).values()
    steps = sum(int(entry.get("steps") or 0) for entry in entries)
    tokens, cost = result_files.tokens(document), float(document.get("total_cost") or 0.0)
    if not (is_unrecorded or steps or cost or tokens != trajectory.Tokens()):
        return Usage()
    return Usage(
        calls=steps,
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cached_tokens=tokens.cached,
        cost_usd=cost,
        cost_complete=False,
        cost_bound_usd=None,
    )


def _messages(run: Run, attempt: Path, upstream: Path, document: Mapping[str, Any]) -> int:
    """Return how many messages the agents sent to each other.

    A terminated attempt has no conversation.json; the messages in its answered calls are counted.
    """
    path = upstream / result_files.CONVERSATION
    if path.is_file():
        documents = atomic_io.read_documents(upstream, trajectory.is_trajectory)
        framework = str(document.get("agent_framework") or "")
        return len(result_files.sent_messages(atomic_io.read_json(path), documents, framework))
    if not run.experiment.setting.messaging:
        return 0
    records = atomic_io.read_lines(attempt / layout.CALLS)
    answers = [r for r in records if r.get("event") == "end" and r.get("kind") == usage.ANSWERED]
    return len(result_files.messages_of_calls(("", None, r.get("message") or {}) for r in answers))


def _lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def _result_of_upstream_form(run: Run, evidence: Evidence, started: float) -> dict[str, Any]:
    """Return a result.json in upstream's format for an attempt that ended without one."""
    pair, mode = run.pair, run.experiment.setting.mode
    end: dict[str, Any] = {
        "status": "TimeLimit" if evidence.timed_out else "Error",
        "cost": 0,
        "steps": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "patch_lines": 0,
        "error": evidence.detail or "ended by the workflow before it wrote a result",
    }
    agents = (
        {"agent": end}
        if mode == "solo"
        else {
            "agents": {
                f"agent{i}": {"feature_id": feature, **end}
                for i, feature in enumerate(pair.sorted_features, start=1)
            }
        }
    )
    return {
        **pair.identity,
        "setting": mode,
        "run_name": run.experiment.run_name,
        "model": run.experiment.model.model,
        "started_at": _iso(started),
        "ended_at": _iso(started + evidence.seconds),
        "duration_seconds": evidence.seconds,
        **agents,
        "total_cost": 0,
        "total_steps": 0,
    }


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))


def write_evaluation(
    results: Results, path: Path, document: Mapping[str, Any], marker: str, key: str, broke: bool
) -> None:
    """Write the document of an evaluation, with a redo marker if it broke.

    The marker is written first, and an older marker is removed last. A kill therefore never leaves
    the document of a broken evaluation without a marker, which would count as final.

    Args:
        marker: the name of the redo marker, see redo.py.
        key: key of the run or pair, the content of the marker.
        broke: whether the evaluation broke.
    """
    older = list(results.redo_markers.glob(f"{marker}.*"))
    if broke:
        atomic_io.write_text(results.redo_markers / f"{marker}.{time.time_ns()}", f"{key}\n")
    atomic_io.write_json(path, document)
    for old in older:
        old.unlink(missing_ok=True)
