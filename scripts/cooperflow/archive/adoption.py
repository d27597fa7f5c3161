"""Adoption: imports runs that plain cooperbench made, as far as its files allow.

Upstream's folders contain neither a log of model calls nor engine events. Therefore an adopted
run's cost is never complete, an agent that ended in an error counts as an infrastructure error, and
a container that died unnoticed is indistinguishable from a fail.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pydantic

from cooperflow import atomic_io, layout
from cooperflow.errors import UserError
from cooperflow.experiment import dataset, fingerprint
from cooperflow.experiment.plan import Experiment, Plan, Run
from cooperflow.outcomes import judgement, run_result
from cooperflow.outcomes.judgement import Evidence, Verdict
from cooperflow.outcomes.run_result import EvalRecord, RunRecord
from cooperflow.outcomes.usage import Usage
from cooperflow.upstream import published, releases, result_files, trajectory
from cooperflow.upstream.trajectory import Tokens

# Caveat of outcomes from a public record.
PUBLIC_RECORD = "public_record"


@dataclass
class ImportSummary:
    """Summary of one experiment's import: adopted, missing and refused runs."""

    name: str
    runs: int = 0
    graded: int = 0
    before: int = 0  # runs imported earlier
    absent: int = 0  # pairs of the subset that are missing in the folder
    refused: tuple[str, ...] = ()  # each with the reason
    leaked: int = 0  # runs of a release whose agents could read later commits
    # Features that the run's release could not evaluate, by repo/task.
    not_evaluable: dict[str, set[int]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.runs} runs imported, {self.graded} with their evaluation;"
            f" {self.before} imported before; {self.absent} pairs missing"
        ]
        if self.leaked:
            lines.append(
                f"  caveat {releases.HISTORY_LEAKED}: {self.leaked} runs were made before 0.0.23,"
                " whose agents could read later commits"
            )
        if self.not_evaluable:
            features = "; ".join(
                f"{task} {', '.join(map(str, sorted(ids)))}"
                for task, ids in self.not_evaluable.items()
            )
            lines.append(
                f"  caveat {releases.NOT_EVALUABLE}: made before 0.0.29, which could not evaluate"
                f" the features {features}"
            )
        return "\n".join([*lines, *(f"  left out: {refusal}" for refusal in self.refused)])

    def note(self, span: releases.Span, run: Run) -> None:
        """Count the caveats of the release that made a run."""
        pair = run.pair
        self.leaked += span.is_before("0.0.23")
        broken = releases.not_evaluable(span, pair.repo, pair.task_id, pair.features)
        if broken:
            self.not_evaluable.setdefault(f"{pair.repo}/{pair.task_id}", set()).update(broken)


def adopt(plan: Plan) -> str:
    """Import the runs that are not yet in the results, and return a summary.

    Raises:
        UserError: no model adopts anything, a folder is missing, or its runs have another model,
            agent or setting than the config.
    """
    experiments = [experiment for experiment in plan.experiments if experiment.adopted]
    if not experiments:
        raise UserError(
            "No model adopts anything. Write models.NAME.adopt: {SETTING: LOG_DIR/RUN_NAME}."
        )
    return "\n".join(str(_import_experiment(plan, experiment)) for experiment in experiments)


def _import_experiment(plan: Plan, experiment: Experiment) -> ImportSummary:
    source = Path(experiment.adopted_from)
    key = f"models.{experiment.model_name}.adopt.{experiment.setting.name}"
    if record := published.split_source(experiment.adopted_from):
        return _import_record(plan, experiment, key, *record)
    if not source.is_dir():
        raise UserError(f"{key}: the folder {source} does not exist.")
    counts, refused, pending = ImportSummary(experiment.run_name), [], []
    for run in plan.of(experiment):
        folder = _folder(source, run)
        if run.folder(plan.results).result.exists():
            counts.before += 1
        elif folder is None:
            counts.absent += 1
        else:
            try:
                document = _document(folder, run)
                _check_experiment(key, folder, document, run)
                pending.append((run, folder, document))
            except ValueError as error:
                refused.append(f"{folder}: {error}")
    if pending:
        spans = [_span(document, _trajectories(folder)) for _, folder, document in pending]
        runs = [run for run, _, _ in pending]
        _write_experiment(plan, experiment, source, runs, dict.fromkeys(map(str, spans)))
        for run, span in zip(runs, spans, strict=True):
            counts.note(span, run)
    for run, folder, document in pending:
        counts.graded += _import_run(plan, run, folder, document)
        counts.runs += 1
    counts.refused = tuple(refused)
    return counts


def _import_record(
    plan: Plan, experiment: Experiment, key: str, path: Path, model: str
) -> ImportSummary:
    """Adopt a model's outcomes from a public record, which has no trajectories, costs or times."""
    try:
        outcomes = published.read_record(path, model)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {path} cannot be read as a public record: {error}.") from error
    counts, pending = ImportSummary(experiment.run_name), []
    for run in plan.of(experiment):
        outcome = outcomes.get((run.pair.repo, run.pair.task_id, run.pair.sorted_features))
        if run.folder(plan.results).result.exists():
            counts.before += 1
        elif outcome is None:
            counts.absent += 1
        else:
            pending.append((run, outcome))
    if pending:
        runs = [run for run, _ in pending]
        _write_experiment(plan, experiment, path, runs, [releases.UNKNOWN])
    for run, outcome in pending:
        _import_outcome(plan, run, outcome, path)
        counts.runs += 1
        counts.graded += 1
    return counts


def _import_outcome(plan: Plan, run: Run, outcome: published.Outcome, source: Path) -> None:
    """Write the documents of a run with a known outcome only, result.json last."""
    folder = run.folder(plan.results)
    pair = {**run.pair.identity, "setting": run.experiment.setting.mode}
    reason = ""
    if not outcome.passed:
        reason = judgement.MERGE_CONFLICT if outcome.conflict else judgement.TESTS_FAILED
    merge = None if outcome.conflict is None else {"status": "clean", "strategy": None}
    if merge and outcome.conflict:
        merge["status"] = result_files.CONFLICTS
    verdict = EvalRecord(
        outcome=judgement.PASS if outcome.passed else judgement.FAIL,
        reason=reason,
        caveat=PUBLIC_RECORD,
    )
    evaluation = {**pair, "merge": merge, "both_passed": outcome.passed, "error": None}
    atomic_io.write_json(folder.eval, {**evaluation, "workflow": verdict.as_dict()})
    run_result.make_stale(plan.results, folder.eval)
    record = RunRecord(
        attempts=1,
        usage=Usage(cost_complete=False, cost_bound_usd=None),
        model_name=run.experiment.model_name,
        setting=run.experiment.setting.name,
        adopted=True,
        caveats=[PUBLIC_RECORD],
    )
    source_facts = {"upstream_version": releases.UNKNOWN, "public_record": source.name}
    document = {**pair, "run_name": run.experiment.run_name, "model": run.experiment.model.model}
    workflow = {**record.as_dict(), **source_facts}
    atomic_io.write_json(folder.result, {**document, "workflow": workflow})


class _UpstreamAgent(pydantic.BaseModel):
    """Fields of an agent in upstream's result.json."""

    steps: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None


class _UpstreamResult(pydantic.BaseModel):
    """Fields of upstream's result.json besides the pair and the times."""

    agent: _UpstreamAgent | None = None
    agents: dict[str, _UpstreamAgent] | None = None
    duration_seconds: float | None = None
    messages_sent: int | None = None
    total_cost: float | None = None


def _folder(source: Path, run: Run) -> Path | None:
    """Return the run's folder below a run name's folder, in upstream's current or older layout."""
    for folder in (run.experiment.setting.mode, ""):
        path = source / folder / run.pair.folder
        if (path / layout.RESULT).is_file():
            return path
    return None


def _document(folder: Path, run: Run) -> dict[str, Any]:
    """Return upstream's result.json.

    Raises:
        ValueError: it is incomplete, belongs to another pair, has no times, or its patches are
            missing.
    """
    document = atomic_io.read_json(folder / layout.RESULT)
    if not isinstance(document, dict):
        raise ValueError("result.json is incomplete")
    if not run.pair.is_named_in(document):
        raise ValueError("result.json belongs to another pair")
    if len(_patches(folder)) != (1 if run.experiment.setting.mode == "solo" else 2):
        raise ValueError("its patches are missing")
    for key in ("started_at", "ended_at"):
        _moment(document.get(key))
    try:
        _UpstreamResult.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise ValueError(f"result.json is not upstream's: {location}: {first['msg']}") from error
    return document


def _check_experiment(key: str, folder: Path, document: Mapping[str, Any], run: Run) -> None:
    """Raise a UserError if the document belongs to another experiment than the config's."""
    setting = run.experiment.setting
    expected = {
        "setting": setting.mode,
        "model": run.experiment.model.model,
        "agent_framework": run.experiment.agent.name,
    }
    differences = [
        f"{name} is {document[name]!r} there, {value!r} in the config"
        for name, value in expected.items()
        if document.get(name) not in (None, value)
    ]
    if not setting.messaging and _messages(folder, document, _trajectories(folder)):
        differences.append(f"messages were sent there, but {setting.name} has none")
    if differences:
        raise UserError(f"{key}: {folder} belongs to another experiment: {'; '.join(differences)}.")


def _write_experiment(
    plan: Plan, experiment: Experiment, source: Path, runs: Sequence[Run], versions: Iterable[str]
) -> None:
    """Write experiment.json, which marks the runs as adopted and names their source."""
    path = plan.results.experiment(experiment.run_name)
    before = atomic_io.read_object(path)
    if before and not before.get("adopted"):
        raise UserError(
            f"{experiment.run_name}: {path.parent} contains runs that this workflow made. Give the"
            " model that adopts another name."
        )
    tasks: dict[str, str] = {}
    # The tables can be made without the data set.
    with contextlib.suppress(UserError, OSError):
        tasks = dataset.task_hashes(Path(plan.config.dataset.dir), [run.pair for run in runs])
    resolved = {"tasks": {**((before.get("resolved") or {}).get("tasks") or {}), **tasks}}
    atomic_io.write_json(
        path,
        {
            "schema": fingerprint.SCHEMA,
            "run_name": experiment.run_name,
            "model_name": experiment.model_name,
            "setting": experiment.setting.name,
            "replay": False,
            "adopted": {
                "from": str(source),
                "at": datetime.now().astimezone().isoformat(timespec="seconds"),
                "upstream_version": ", ".join(sorted(versions)),
                # Upstream's config in its last call.
                "config": atomic_io.read_json(source / "config.json"),
            },
            "fingerprint": None,
            "asked": None,
            "resolved": resolved,
            "docker": None,
        },
    )


def _import_run(plan: Plan, run: Run, source: Path, document: Mapping[str, Any]) -> bool:
    """Copy one run, result.json last; return whether its evaluation was imported too."""
    folder = run.folder(plan.results)
    folder.path.mkdir(parents=True, exist_ok=True)
    atomic_io.remove_temporary_files(folder.path)
    for path in source.iterdir():
        if path.is_file() and path.name not in (layout.RESULT, layout.EVAL, layout.OWN):
            shutil.copyfile(path, folder.path / path.name)
    agents = result_files.agent_ends(document)
    limit = fingerprint.step_limit(run.experiment, plan)
    verdict = judgement.judge_run(Evidence(document=True, agents=agents, step_limit=limit))
    trajectories = _trajectories(source)
    messages = _messages(source, document, trajectories)
    usage = usage_of(document, trajectories)
    record = _record(run, document, verdict, usage, messages, _patches(source))
    span = _span(document, trajectories)
    caveats = releases.caveats(span, run.pair.repo, run.pair.task_id, run.pair.features)
    folder.eval.unlink(missing_ok=True)
    folder.own.unlink(missing_ok=True)
    graded = _evaluation(source, verdict)
    if graded is not None:
        evaluation, final = graded
        evaluation_document = evaluation or run_result.untested_document(run, final)
        run_result.publish_verdict(plan.results, run, evaluation_document, final, 0.0, caveats)
    result = {**document, "log_dir": str(folder.path), "workflow": record.as_dict()}
    broken = releases.not_evaluable(span, run.pair.repo, run.pair.task_id, run.pair.features)
    result["workflow"] |= {
        "upstream_version": str(span),
        "caveats": caveats,
        "not_evaluable": broken,
    }
    atomic_io.write_json(folder.result, result)
    return graded is not None


def _span(document: Mapping[str, Any], trajectories: Mapping[str, Any]) -> releases.Span:
    """Return the range of cooperbench releases that may have made a run."""
    prompts = []
    for parsed in trajectories.values():
        messages = parsed.get("messages") if isinstance(parsed, dict) else None
        for message in messages[:2] if isinstance(messages, list) else []:
            content = message.get("content") if isinstance(message, dict) else None
            if content and document.get("agent_framework") == "mini_swe_agent_v2":
                prompts.append(content if isinstance(content, str) else json.dumps(content))
    return releases.detect(_moment(document.get("started_at")), prompts)


def _evaluation(source: Path, verdict: Verdict) -> tuple[Mapping[str, Any] | None, Verdict] | None:
    """Return upstream's evaluation and its verdict; None: the run must still be evaluated."""
    if verdict.outcome is not None:
        return None, verdict  # upstream's evaluation after an error does not count
    evaluation = atomic_io.read_json(source / layout.EVAL)
    if not isinstance(evaluation, dict):
        return None
    final = run_result.verdict_of(evaluation, source, verdict.reason)
    return None if final.again else (evaluation, final)


def _record(
    run: Run,
    document: Mapping[str, Any],
    verdict: Verdict,
    usage: Usage,
    messages: int,
    patches: Sequence[Path],
) -> RunRecord:
    started, ended = _moment(document.get("started_at")), _moment(document.get("ended_at"))
    return RunRecord(
        outcome=verdict.outcome,
        reason=verdict.reason,
        attempts=1,
        usage=usage,
        model_name=run.experiment.model_name,
        setting=run.experiment.setting.name,
        seconds=round(float(document.get("duration_seconds") or ended - started), 3),
        steps=sum(end.steps for end in result_files.agent_ends(document)),
        messages_sent=messages,
        patch_lines=sum(len(path.read_bytes().splitlines()) for path in patches),
        started=started,
        ended=ended,
        adopted=True,
    )


def usage_of(document: Mapping[str, Any], trajectories: Mapping[str, Any]) -> Usage:
    """Return the usage according to upstream's documents, a lower bound without failed calls.

    Tokens come from result.json, or from the trajectories if it reports 0.

    Args:
        trajectories: the run's parsed trajectory files by name.
    """
    entries = [e for read in trajectory.parse(trajectories).values() for e in read.entries]
    answers = [entry.tokens for entry in entries if entry.tokens is not None]
    # Upstream's cost excludes the calls that compact a conversation.
    summaries = sum(entry.cost for entry in entries if entry.kind == trajectory.SUMMARY)
    tokens = result_files.tokens(document)
    if tokens == Tokens():
        tokens = Tokens(
            sum(answer.input for answer in answers),
            sum(answer.output for answer in answers),
            sum(answer.cached for answer in answers),
        )
    agents = result_files.agent_entries(document)
    return Usage(
        calls=len(answers) or sum(int(end.get("steps") or 0) for end in agents.values()),
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cached_tokens=tokens.cached,
        cost_usd=float(document.get("total_cost") or 0.0) + summaries,
        cost_complete=False,
        cost_bound_usd=None,
    )


def _trajectories(folder: Path) -> dict[str, Any]:
    """Return the parsed trajectory files of a run by name."""
    return atomic_io.read_documents(folder, trajectory.is_trajectory)


def _messages(folder: Path, document: Mapping[str, Any], trajectories: Mapping[str, Any]) -> int:
    """Return the number of sent messages, by upstream's count if there is no list."""
    path = folder / result_files.CONVERSATION
    if not path.is_file():
        return int(document.get("messages_sent") or 0)
    framework = str(document.get("agent_framework") or "")
    return len(result_files.sent_messages(atomic_io.read_json(path), trajectories, framework))


def _patches(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.patch"))


def _moment(text: object) -> float:
    """Return upstream's time in seconds; it has no time zone and is read in this machine's.

    Raises:
        ValueError: the text is not a time.
    """
    return datetime.fromisoformat(str(text)).timestamp()
