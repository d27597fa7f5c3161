"""The data set: missing files, other contents, and the revision that is fetched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from cooperflow.errors import UserError
from cooperflow.experiment import config_schema, pairs
from cooperflow.experiment import dataset as module

A, B = "demo_inventory_task", "demo_textkit_task"


def test_what_lacks_is_named(make_plan: Any, dataset: Path) -> None:
    plan = make_plan()
    assert module.fetch_and_check(plan)["source"] == "present"
    (dataset / A / "task1" / "runner.sh").unlink()
    (dataset / A / "task1" / "feature2" / "tests.patch").unlink()
    with pytest.raises(UserError, match=r"2 files are missing .*task1/runner.sh"):
        module.fetch_and_check(plan)


def test_other_contents_are_told(
    make_plan: Any, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan()
    before = module.fetch_and_check(plan)
    patch = dataset / A / "task1" / "feature1" / "tests.patch"
    patch.write_text(patch.read_text() + "\n")
    after = module.fetch_and_check(plan)
    assert after["hash"] != before["hash"]
    assert f"{A}/1: other contents" in capsys.readouterr().out


def _answer_with(monkeypatch: pytest.MonkeyPatch, answers: dict[str | None, Any]) -> list[Any]:
    """Replace the hub's answer to which commit a revision is; return the questions."""
    questions: list[Any] = []

    def resolve(repository: str, revision: str | None, timeout: float | None = None) -> Any:
        questions.append((repository, revision))
        answer = answers[revision]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(module, "_resolve", resolve)
    return questions


def _not_found(kind: str) -> Exception:
    answer = httpx.Response(404, request=httpx.Request("GET", "http://hub"))
    error: Exception = getattr(errors, kind)("404", response=answer)
    return error


def test_the_shipped_revision_is_fetched_by_default(
    make_plan: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revision that the hub does not know is one message with the ways out."""
    known = module.read_known()
    plan = make_plan(dataset={"lock": str(tmp_path / "lock.json")})
    dataset.rename(tmp_path / "elsewhere")
    questions = _answer_with(monkeypatch, {known.revision: _not_found("RevisionNotFoundError")})
    with pytest.raises(UserError) as told:
        module.fetch_and_check(plan)
    assert questions == [(known.repository, known.revision)]
    for words in (
        f"config/dataset.known.json: the hub's {known.repository} has no revision {known.revision}",
        "`dataset: {revision: main}`",
        "dataset.dir",
    ):
        assert words in str(told.value)
    _answer_with(monkeypatch, {known.revision: _not_found("RepositoryNotFoundError")})
    with pytest.raises(UserError, match=r"has no data set CooperBench/.*HF_TOKEN.*dataset\.dir"):
        module.fetch_and_check(plan)


def test_config_lock_and_shipped_revision_take_precedence_in_this_order() -> None:
    known, lock = module.read_known(), module.Lock("x/y", "a" * 40)
    assert config_schema.Dataset().revision == config_schema.PINNED
    for asked, given, repository, revision in (
        ("b" * 40, lock, known.repository, "b" * 40),
        ("main", lock, known.repository, "main"),
        ("a" * 40, lock, "x/y", "a" * 40),
        (config_schema.PINNED, lock, "x/y", "a" * 40),
        (None, lock, "x/y", "a" * 40),
        (config_schema.PINNED, None, known.repository, known.revision),
        (None, None, known.repository, None),
    ):
        wanted = module.choose_revision(asked, given, "lock.json")
        assert (wanted.repository, wanted.revision) == (repository, revision), asked


def test_the_shipped_hashes_are_of_every_published_task() -> None:
    known = module.read_known()
    names = {f"{repo}/{task}" for repo, task in pairs.known_features()}
    assert set(known.tasks) == names
    assert all(len(value) == 64 for value in known.tasks.values())
    assert len(known.revision) == 40
    description = config_schema.Dataset.model_fields["revision"].description
    assert known.revision in str(description)


def test_a_copied_folder_is_compared_with_the_checked_copy_task_by_task(
    make_plan: Any,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = make_plan(dataset={"lock": str(tmp_path / "lock.json")})
    hashes = module.task_hashes(dataset, plan.pairs)
    known = module.Known("x/y", "c" * 40, hashes, "a copy")
    monkeypatch.setattr(module, "read_known", lambda: known)
    told = module.fetch_and_check(plan)
    assert told["checked"] == {"copy": "a copy", "compared": len(hashes), "differs": []}
    assert "compared with the copy that was checked (a copy): no difference" in (
        capsys.readouterr().out
    )
    patch = dataset / A / "task1" / "feature1" / "tests.patch"
    patch.write_text(patch.read_text() + "\n")
    told = module.fetch_and_check(plan)
    assert told["checked"]["differs"] == [f"{A}/1"]
    printed = capsys.readouterr().out
    assert f"1 of {len(hashes)} tasks differ from the copy that was checked (a copy):" in printed
    assert f"  {A}/1: its contents have another hash" in printed
    # A folder of another revision than the pinned revision is used, and named.
    module.mark_revision(dataset, "x/y", "d" * 40)
    _answer_with(monkeypatch, {None: "e" * 40})
    module.fetch_and_check(plan)
    printed = capsys.readouterr().out
    assert f"holds revision {'d' * 40}, which stays in use" in printed
    assert f"has {'c' * 40}" in printed
    assert f"the hub has a newer revision, {'e' * 40}; {'d' * 40} stays in use" in printed


def test_own_tasks_are_compared_with_no_copy(
    make_plan: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    told = module.fetch_and_check(make_plan())
    assert told["checked"]["compared"] == 0
    assert capsys.readouterr().out == ""


def test_the_hubs_own_client_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """snapshot_download resumes, retries and verifies."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **keys: calls.append(keys))
    monkeypatch.setattr(sys, "argv", ["dataset", "x/y", "a" * 40, str(tmp_path)])
    assert module.download() == 0
    (call,) = calls
    assert (call["repo_id"], call["repo_type"]) == ("x/y", "dataset")
    assert (call["revision"], call["local_dir"]) == ("a" * 40, str(tmp_path))
