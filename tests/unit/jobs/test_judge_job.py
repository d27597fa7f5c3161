"""The optional judge: labels need verbatim quotes, and no answer is paid twice. Replay only."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
from judged import answer, plan_of, summary_of

from cooperflow import layout
from cooperflow.analysis.history import Command, Event, History
from cooperflow.errors import UserError
from cooperflow.experiment import plan as planning
from cooperflow.jobs import judge_job
from cooperflow.jobs.job import DONE, TRY_AGAIN
from cooperflow.jobs.judge_job import CallFailedError
from cooperflow.outcomes import usage
from cooperflow.tables import symptoms
from cooperflow.tables.symptoms import Label, Reading

A, B = "I take store.py, all of it.", "I rewrite store.py now."
TEXT = f"[message from agent1 to agent2]\n{A}\n\n[agent2, step 3]\n{B}"


@pytest.mark.parametrize(
    ("label", "rejected"),
    [
        (("work_overlap", [A, B]), ""),
        (("overlap", [A, B]), symptoms.UNKNOWN_SYMPTOM),
        (("work_overlap", [A]), symptoms.NOT_TWO_QUOTES),
        (("work_overlap", [A, B, A]), symptoms.NOT_TWO_QUOTES),
        (("work_overlap", [A, A]), symptoms.NOT_TWO_QUOTES),
        (("work_overlap", [A, "store.py"]), symptoms.SHORT_QUOTE),
        (("work_overlap", [A, "I rewrite store.py now!"]), symptoms.QUOTE_NOT_FOUND),
        (("work_overlap", [A, "i rewrite store.py now."]), symptoms.QUOTE_NOT_FOUND),
        (("work_overlap", [A, "I take  store.py, all of it."]), symptoms.QUOTE_NOT_FOUND),
    ],
)
def test_a_label_needs_two_exact_quotes(label: Any, rejected: str) -> None:
    reading = symptoms.read_answer(answer(label), TEXT)
    assert [result.rejected for result in reading.labels] == [rejected]
    assert reading.accepted == (frozenset() if rejected else {"work_overlap"})


def test_answers_in_unusual_formats() -> None:
    fenced = f"Here it is:\n```json\n{answer(('work_overlap', [A, B]))}\n```"
    assert symptoms.read_answer(fenced, TEXT).accepted == {"work_overlap"}
    duplicate = symptoms.read_answer(answer(("repetition", [A, B]), ("repetition", [B, A])), TEXT)
    assert [label.rejected for label in duplicate.labels] == ["", symptoms.DUPLICATE]
    assert symptoms.read_answer(answer(), TEXT) == Reading()
    for text in ("", "No symptom.", '{"labels": 3}', "{", '{"labels": [', "[]"):
        assert not symptoms.read_answer(text, TEXT).readable
    unusual = symptoms.read_answer('{"labels": [3, {"symptom": null, "quotes": "x"}]}', TEXT)
    assert {label.rejected for label in unusual.labels} == {symptoms.UNKNOWN_SYMPTOM}


def test_the_transcript_has_messages_commands_patches_and_result() -> None:
    history = History(
        ("agent1",),
        (
            Event("agent1", 1.0, "step", 1, "I look.", (Command("ls", "x" * 5000),), thought="Hm."),
            Event("agent1", 1.0, "message", text="Hello", to="agent2"),
            Event("agent2", 2.0, "received", text="[Message from agent1]: Hello"),
        ),
    )
    text = symptoms.transcript(history, [("agent1.patch", "+ 1")], {"reason": "merge_conflict"})
    assert text.startswith("[agent1, step 1]\nHm.\nI look.\n$ ls\nxxx")
    assert "[message from agent1 to agent2]\nHello" in text
    assert text.endswith("## Patch agent1.patch\n+ 1\n\n## Result\nreason: merge_conflict")
    assert len(text) < 2000
    (message,) = symptoms.prompt(text)
    assert message["content"].startswith(symptoms.MARK)
    assert all(name in message["content"] for name in symptoms.SYMPTOMS)


def test_a_larger_sample_keeps_a_smaller_one() -> None:
    keys = [f"run{n}" for n in range(50)]
    first = symptoms.order(keys, 0)
    assert sorted(first) == sorted(keys)
    assert symptoms.order(reversed(keys), 0) == first
    assert symptoms.order(keys[:40], 0) == [key for key in first if key in keys[:40]]
    assert symptoms.order(keys, 1) != first


def test_the_cache_key_has_everything_an_answer_depends_on() -> None:
    base = ("m", symptoms.prompt("a"), 1)
    others = [("n", base[1], 1), ("m", symptoms.prompt("b"), 1), ("m", base[1], 2)]
    assert len({symptoms.cache_key(*parts) for parts in (base, *others)}) == 4


def reading(*names: str, rejected: str = "") -> Reading:
    return Reading(tuple(Label(name, (A, B), rejected) for name in names))


def test_counts_and_agreement_by_hand() -> None:
    readings = {
        "r1": [reading("work_overlap"), reading("work_overlap"), reading("work_overlap")],
        "r2": [reading("work_overlap"), reading("work_overlap"), reading()],
        "r3": [reading("work_overlap"), reading(), reading()],
        "r4": [reading(), reading("repetition", rejected=symptoms.QUOTE_NOT_FOUND), reading()],
        "r5": [Reading(readable=False)],
    }
    table = symptoms.count_symptoms(readings, replay=True).set_index("symptom")
    row = table.loc["work_overlap"]
    assert (row["runs"], row["judged"], row["share"]) == (2, 4, 0.5)
    # Pairs that agree: 3 of 3, 1 of 3, 1 of 3, 3 of 3.
    assert row["agreement"] == pytest.approx(2 / 3, abs=1e-6)
    # Six of twelve answers are yes: 1/2 by chance.
    assert row["kappa"] == pytest.approx((2 / 3 - 0.5) / 0.5, abs=1e-6)
    assert table.loc["repetition", "runs"] == 0
    assert table.loc["repetition", "labels_rejected"] == 1
    assert math.isnan(table.loc["repetition", "kappa"])
    assert table["replay"].all()
    assert set(table.index) == set(symptoms.SYMPTOMS)
    counts = symptoms.count_symptoms({"r1": [reading("repetition")]}, replay=False)
    assert counts["agreement"].isna().all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judge") / "results"
    synthetic.finish(synthetic.make_plan(root, "flash"), steps=2)
    return root


@pytest.fixture
def root(finished: Path) -> Path:
    shutil.rmtree(finished / "judge", ignore_errors=True)
    return finished


def ask_all(plan: planning.Plan, ask: judge_job.Ask) -> tuple[int, dict[str, str], list[float]]:
    questions, _ = judge_job.collect(plan, judge_job.judge_of(plan).model)
    skipped: dict[str, str] = {}
    pauses: list[float] = []
    judge = judge_job.judge_of(plan)
    code = judge_job.ask_all(plan, judge, questions, ask, skipped, pauses.append)
    judge_job.write_tables(plan, judge, questions, skipped)
    return code, skipped, pauses


def test_only_failed_runs_of_two_agents_are_sampled(root: Path) -> None:
    plan = plan_of(root, sample=1000, repeats=2)
    questions, failed = judge_job.collect(plan, judge_job.judge_of(plan).model)
    runs = pd.read_csv(plan.results.runs_csv)
    expected = ((runs["outcome"] == "fail") & (runs["mode"] == "coop")).sum()
    assert failed == expected
    assert len(questions) == 2 * expected
    assert len({question.key for question in questions}) == 2 * expected
    # A recorded answer is never taken for one of the model.
    model = judge_job.judge_of(plan).model
    replay = None if model.replay else "recordings"
    others, _ = judge_job.collect(plan, model.model_copy(update={"replay": replay}))
    assert not {q.key for q in questions} & {q.key for q in others}


def test_a_busy_provider_is_tried_again(root: Path) -> None:
    errors = [
        CallFailedError(usage.RATE_LIMITED, "429"),
        CallFailedError(usage.API_TIMEOUT, "slow"),
    ]

    def ask(key: str, messages: Any) -> str:
        if errors:
            raise errors.pop()
        return answer()

    code, skipped, pauses = ask_all(plan_of(root), ask)
    assert (code, skipped, pauses) == (DONE, {}, [4.0, 8.0])
    assert summary_of(root)["answers"] == 3


def test_answers_before_an_outage_are_kept(root: Path) -> None:
    keys: list[str] = []

    def ask(key: str, messages: Any) -> str:
        keys.append(key)
        if len(set(keys)) == 2:
            raise CallFailedError(usage.API_UNAVAILABLE, "503")
        return answer()

    code, _, pauses = ask_all(plan_of(root), ask)
    assert (code, len(keys), len(pauses)) == (TRY_AGAIN, 4, 2)
    summary = summary_of(root)
    assert (summary["answers"], summary["answers_missing"]) == (1, 2)


def test_a_refused_key_stops_with_one_message(root: Path) -> None:
    def ask(key: str, messages: Any) -> str:
        raise CallFailedError("auth", "invalid api token")

    with pytest.raises(UserError, match=r"COHERE_API_KEY.*are kept"):
        ask_all(plan_of(root), ask)


def test_a_refused_request_is_counted_and_the_rest_is_judged(root: Path) -> None:
    keys: list[str] = []

    def ask(key: str, messages: Any) -> str:
        keys.append(key)
        if len(keys) == 1:
            raise CallFailedError(usage.BAD_REQUEST, "prompt is too long")
        return answer()

    code, skipped, _ = ask_all(plan_of(root), ask)
    assert (code, len(skipped)) == (DONE, 1)
    assert summary_of(root)["answers_refused"] == {usage.BAD_REQUEST: 1}


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"model": "command-b"}, "judge.model: 'command-b' is not an entry of models"),
        ({"model": {"model": "x", "provider": "p"}}, "judge.model.provider"),
        ({"model": {"api_key": "K"}}, "judge.model"),
        ({"sample": 0}, "judge.sample"),
        ({"repeats": 11}, "judge.repeats"),
    ],
)
def test_the_config_is_checked(tmp_path: Path, judge: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, **judge)
    assert words in str(caught.value)


def test_without_a_judge_or_runs_the_message_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"judge.model: missing"):
        judge_job.judge_of(plan_of(tmp_path, model=None))
    with pytest.raises(UserError, match=r"runs.csv is missing"):
        judge_job.collect(plan_of(tmp_path), judge_job.judge_of(plan_of(tmp_path)).model)


def test_the_judges_key_is_redacted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, model={"model": "openai/x", "api_key": "JUDGE_KEY"})
    assert plan.config.key_names == ["COHERE_API_KEY", "JUDGE_KEY"]


def test_judge_is_not_part_of_all() -> None:
    rules = layout.REPOSITORY / "rules"
    assert "output:" not in (rules / "judge.smk").read_text()
    text = (layout.REPOSITORY / "Snakefile").read_text()
    assert "judge" not in text.split("rule all:")[1]
