"""Job of the optional judge, a model that labels a sample of the failed runs of two agents.

Its calls are recorded, limited and retried like those of a run. Only judge/summary.json contains
their cost, no table of the runs. Each answer is a file named after its request, so that no answer
is paid for twice; after a kill it is restored from the call log.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cooperflow import atomic_io, layout, locks, processes, redaction, session_state
from cooperflow.analysis.run_files import RunFiles
from cooperflow.errors import UserError
from cooperflow.experiment.config_schema import Model
from cooperflow.experiment.plan import Experiment, Plan
from cooperflow.jobs.job import DONE, INTERRUPTED, TRY_AGAIN, claim_seconds
from cooperflow.outcomes import judgement, usage
from cooperflow.processes import Interrupted
from cooperflow.session_state import RateLimit
from cooperflow.tables import paper_tables, run_table, symptoms

NAME = "judge"
# Pauses between the tries of a call, seconds; the same as the agent's.
FIRST_PAUSE = 4.0
LONGEST_PAUSE = 60.0
# Longest wait for the call log's record of an answered call, seconds.
RECORD_SECONDS = 10.0
# Function that asks the judge: name of the request and messages -> answer.
Ask = Callable[[str, Sequence[Mapping[str, str]]], str]


class CallFailedError(Exception):
    """A call failed: kind of the failure and message of the provider."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Question:
    """A request to the judge about one run."""

    row: Mapping[Any, Any]
    repeat: int
    transcript: str
    messages: tuple[Mapping[str, str], ...]
    key: str

    @property
    def run(self) -> str:
        return run_table.run_key(self.row)


def perform(plan: Plan) -> int:
    """Judge the sample and write the tables; return the exit code of the job.

    Raises:
        UserError: the judge, runs.csv or the key is missing, or the provider refuses every call.
    """
    experiment = judge_of(plan)
    results = plan.results
    if reason := session_state.orphan_reason(results):
        print(f"{NAME}: not started: {reason}.")
        return INTERRUPTED
    processes.interrupt_on_signals()
    try:
        with locks.claim(results.claims, NAME, claim_seconds(plan)):
            return _judge(plan, experiment)
    except Interrupted as reason:
        print(f"{NAME}: interrupted: {reason}. The answers so far are kept.")
        return INTERRUPTED


def _judge(plan: Plan, experiment: Experiment) -> int:
    questions, failed = collect(plan, experiment.model)
    folder = plan.results.judge
    _restore(folder, questions, experiment.model)
    pending = [q for q in questions if _answer(folder, q) is None]
    runs = len({question.run for question in questions})
    label = " (replay)" if experiment.model.replay is not None else ""
    print(
        f"judge {experiment.model.model}{label}: {runs} of {failed} failed runs of two agents,"
        f" {len(questions)} answers requested, {len(pending)} calls pending"
    )
    skipped: dict[str, str] = {}
    code = DONE
    if pending:
        with open_judge(plan, experiment, folder) as ask:
            code = ask_all(plan, experiment, pending, ask, skipped)
    write_tables(plan, experiment, questions, skipped)
    return code


def judge_of(plan: Plan) -> Experiment:
    """Return the judge as an experiment: its model, connection and limits.

    Raises:
        UserError: the config has no judge.
    """
    setting = plan.config.judge.model
    if setting is None:
        raise UserError(
            "judge.model: missing. Write an entry of models, or a table with the keys of such an"
            " entry (model, api_base, api_key, provider), then start again."
        )
    model = plan.config.models[setting] if isinstance(setting, str) else setting
    assert model is not None  # checked with the config
    return Experiment(NAME, model, plan.settings[0], plan.config.agent)


def collect(plan: Plan, model: Model) -> tuple[list[Question], int]:
    """Return the requests for the sample, and the number of failed runs from which it was drawn."""
    if not plan.results.runs_csv.is_file():
        raise UserError(f"{plan.results.runs_csv} is missing. Run `snakemake -j 4 all` first.")
    table = run_table.read_runs(plan.results.runs_csv)
    failed = table[(table["outcome"] == judgement.FAIL) & (table["mode"] != paper_tables.SOLO)]
    rows = {run_table.run_key(row): row for row in failed.to_dict("records")}
    judge = plan.config.judge
    redactor = redaction.Redactor.of(redaction.secrets(plan.config.key_names, os.environ))
    questions: list[Question] = []
    for key in symptoms.order(rows, judge.seed)[: judge.sample]:
        row = rows[key]
        run = plan.run(key)
        source = RunFiles(run, run.folder(plan.results))
        if not any(event.kind == "step" for event in source.history.events):
            continue
        facts = {name: row[name] for name in ("outcome", "reason", "merge_status")}
        text = redactor.text(
            symptoms.transcript(source.history, [(p.name, p.text) for p in source.patches], facts)
        )
        messages = tuple(symptoms.prompt(text))
        for repeat in range(1, judge.repeats + 1):
            # A recorded answer never counts as a model's.
            asked = model.model if model.replay is None else f"{model.model} (replay)"
            name = symptoms.cache_key(asked, messages, repeat)
            questions.append(Question(row, repeat, text, messages, name))
    return questions, len(rows)


def ask_all(
    plan: Plan,
    experiment: Experiment,
    pending: Sequence[Question],
    ask: Ask,
    skipped: dict[str, str],
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Ask every pending question and save each answer; return the exit code of the job.

    Args:
        skipped: receives the kind of error of each question that the provider refuses.

    Raises:
        UserError: the provider refuses every call because of key, model or quota.
    """
    folder = plan.results.judge
    for question in pending:
        for number in range(plan.config.limits.call_tries):
            try:
                answer = ask(question.key, question.messages)
            except CallFailedError as error:
                if error.kind in session_state.HALT_ADVICE and error.kind != usage.BAD_REQUEST:
                    advice = session_state.HALT_ADVICE[error.kind].format(
                        key=experiment.model.api_key or "(none)", model=NAME
                    )
                    raise UserError(
                        f"judge: {advice} Its message: {error}. The answers so far are kept."
                    ) from None
                if error.kind not in usage.WAITING:
                    skipped[question.key] = error.kind
                    break
                if number + 1 == plan.config.limits.call_tries:
                    print(
                        f"judge: {error.kind}: {error}. The answers so far are kept. Run"
                        " `snakemake judge` again: it asks for the missing ones only."
                    )
                    return TRY_AGAIN
                requested_pause = usage.requested_pause(_calls(folder, question.key), time.time())
                sleep(max(min(FIRST_PAUSE * 2**number, LONGEST_PAUSE), requested_pause))
            else:
                _keep(folder, question, experiment.model, answer)
                break
    return DONE


def _calls(folder: Path, key: str) -> list[usage.Call]:
    """Return the calls of one request in the call log."""
    calls = usage.calls(atomic_io.read_lines(folder / layout.CALLS))
    return [call for call in calls if call.thread == key]


def _wait_for_records(folder: Path) -> None:
    """Wait until the call log has the end of every call, since litellm reports in a thread."""
    limit = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < limit:
        calls = usage.calls(atomic_io.read_lines(folder / layout.CALLS))
        if all(call.end is not None for call in calls[-1:]):
            return
        time.sleep(0.05)


def _path(folder: Path, question: Question) -> Path:
    return folder / "answers" / f"{question.key}.json"


def _answer(folder: Path, question: Question) -> str | None:
    document = atomic_io.read_json(_path(folder, question))
    return str(document["answer"]) if isinstance(document, dict) and "answer" in document else None


def _keep(folder: Path, question: Question, model: Model, answer: str) -> None:
    document = {
        "schema": 1,
        "run": question.run,
        "repeat": question.repeat,
        "model": model.model,
        "replay": model.replay is not None,
        "prompt_sha256": _digest(symptoms.instructions()),
        "transcript_sha256": _digest(question.transcript),
        "answer": answer,
    }
    atomic_io.write_json(_path(folder, question), document)


def _restore(folder: Path, questions: Sequence[Question], model: Model) -> None:
    """Save answers that only the call log has, because their process was killed too early."""
    answers = {
        str(record.get("thread")): str((record.get("message") or {}).get("content") or "")
        for record in atomic_io.read_lines(folder / layout.CALLS)
        if record.get("event") == "end" and record.get("kind") == usage.ANSWERED
    }
    for question in questions:
        if question.key in answers and _answer(folder, question) is None:
            _keep(folder, question, model, answers[question.key])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def open_judge(plan: Plan, experiment: Experiment, folder: Path) -> Iterator[Ask]:
    """Install the call log and yield the function that calls the judge.

    Raises:
        UserError: the key is missing or unusable.
    """
    from cooperflow.attempt import attempt, child_process

    model = experiment.model
    key = attempt.provider_key(model)
    if model.replay is None and model.api_key and not key:
        problem = redaction.read(model.api_key, os.environ).problem
        raise UserError(
            problem
            or f"judge: the environment variable {model.api_key} is not set. Run `export"
            f" {model.api_key}=...`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    child_process.prepare_environment()
    child_process.set_key(model.model, key)
    from cooperflow.instrumentation import call_log

    current = ""
    rate = plan.limits(experiment).requests_per_minute
    rate_limit = RateLimit(plan.results.rate_limits / str(model.provider), rate) if rate else None
    call_log.install(folder / layout.CALLS, key, rate_limit, lambda: current)
    with contextlib.ExitStack() as stack:
        stack.callback(_wait_for_records, folder)
        base = experiment.api_base
        if model.replay is not None:
            base = attempt.start_replay_server(model.replay, folder, model.model, stack)
        options = {**experiment.connection, **({"api_base": base} if base else {})}

        def ask(name: str, messages: Sequence[Mapping[str, str]]) -> str:
            nonlocal current
            current = name
            seconds = plan.config.limits.call_seconds
            try:
                return _call(model.model, key, messages, options, seconds)
            except CallFailedError as error:
                # The call log has the provider's own status.
                calls = _calls(folder, name)
                has_failed = bool(calls) and calls[-1].kind != usage.ANSWERED
                kind = calls[-1].kind if has_failed else error.kind
                raise CallFailedError(kind, str(error)) from None

        yield ask


def _call(
    model: str,
    key: str | None,
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, Any],
    seconds: float,
) -> str:
    import litellm

    from cooperflow.instrumentation import call_log

    litellm.suppress_debug_info = True
    try:
        answer = litellm.completion(
            model=model,
            messages=[dict(message) for message in messages],
            api_key=key,
            timeout=seconds,
            max_retries=0,
            drop_params=True,
            **options,
        )
    except Exception as error:  # litellm's exceptions have no common base class
        kind, _, _ = call_log.failure_of(error, None)
        # Redacted before the text is shortened, because part of a key would not be recognized.
        message = " ".join(redaction.redact(str(error), key).split())[:300]
        raise CallFailedError(kind, message) from None
    if not answer.choices:
        raise CallFailedError(usage.BAD_REQUEST, "the answer has no choices")
    return str(answer.choices[0].message.content or "")


def write_tables(
    plan: Plan,
    experiment: Experiment,
    questions: Sequence[Question],
    skipped: Mapping[str, str],
) -> None:
    """Write symptoms.csv, labels.csv and summary.json from the answers that exist."""
    folder = plan.results.judge
    replay = experiment.model.replay is not None
    readings: dict[str, list[symptoms.Reading]] = {}
    labels: list[dict[str, Any]] = []
    for question in questions:
        answer = _answer(folder, question)
        if answer is None:
            continue
        reading = symptoms.read_answer(answer, question.transcript)
        readings.setdefault(question.run, []).append(reading)
        key = {name: question.row[name] for name in ("run_name", "repo", "task_id", "features")}
        labels += symptoms.label_rows(key, question.repeat, reading, replay)
    table = symptoms.count_symptoms(readings, replay)
    atomic_io.write_text(folder / "symptoms.csv", table.to_csv(index=False))
    frame = pd.DataFrame(labels, columns=list(symptoms.LABEL_COLUMNS))
    atomic_io.write_text(folder / "labels.csv", frame.to_csv(index=False))
    answers = [reading for group in readings.values() for reading in group]
    total = usage.total(usage.calls(atomic_io.read_lines(folder / layout.CALLS)))
    kinds = [label.rejected for reading in answers for label in reading.labels]
    summary = {
        "schema": 1,
        "model": experiment.model.model,
        "replay": replay,
        "prompt_sha256": _digest(symptoms.instructions()),
        **plan.config.judge.model_dump(exclude={"model"}),
        "runs_judged": len(readings),
        "answers": len(answers),
        "answers_missing": len(questions) - len(answers),
        "answers_refused": dict(sorted(Counter(skipped.values()).items())),
        "answers_unreadable": sum(not reading.readable for reading in answers),
        "labels_accepted": kinds.count(""),
        "labels_rejected": {kind: kinds.count(kind) for kind in symptoms.REJECTIONS},
        # Includes the calls of earlier judges of these results.
        "usage": {**total.as_dict(), "cost_usd": round(total.cost_usd, 6)},
    }
    atomic_io.write_json(folder / "summary.json", summary)
    rejected = len(kinds) - kinds.count("")
    print(
        f"{folder}: {len(readings)} runs judged, {kinds.count('')} labels, {rejected} rejected;"
        f" {total.calls} calls, {total.cost_usd:.4f} USD besides the cost of the runs"
    )
