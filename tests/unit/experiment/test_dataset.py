"""The data set: missing files, changed contents, and the revision that is fetched."""

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


def test_missing_files_are_named(make_plan: Any, dataset: Path) -> None:
    plan = make_plan()
    assert module.fetch_and_check(plan)["source"] == "present"
    (dataset / A / "task1" / "runner.sh").unlink()
    (dataset / A / "task1" / "feature2" / "tests.patch").unlink()
    with pytest.raises(UserError, match=r"2 files are missing .*task1/runner.sh"):
        module.fetch_and_check(plan)


def test_changed_contents_are_reported(
    make_plan: Any, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan()
    before = module.fetch_and_check(plan)
    patch = dataset / A / "task1" / "feature1" / "tests.patch"
    patch.write_text(patch.read_text() + "\n")
    after = module.fetch_and_check(plan)
    assert after["hash"] != before["hash"]
    assert f"{A}/1: contents have changed" in capsys.readouterr().out


def _answer_with(monkeypatch: pytest.MonkeyPatch, answers: dict[str | None, Any]) -> list[Any]:
    """Replace the hub's lookup of a revision's commit; return the revisions requested."""
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
    """One message with the remedies if the hub does not have the revision."""
    pinned = module.read_known()
    plan = make_plan(dataset={"lock": str(tmp_path / "lock.json")})
    dataset.rename(tmp_path / "elsewhere")
    questions = _answer_with(monkeypatch, {pinned.revision: _not_found("RevisionNotFoundError")})
    with pytest.raises(UserError) as caught:
        module.fetch_and_check(plan)
    assert questions == [(pinned.repository, pinned.revision)]
    for words in (
        f"config/dataset.known.json: the hub's {pinned.repository} has no revision "
        f"{pinned.revision}",
        "`dataset: {revision: main}`",
        "dataset.dir",
    ):
        assert words in str(caught.value)
    _answer_with(monkeypatch, {pinned.revision: _not_found("RepositoryNotFoundError")})
    with pytest.raises(UserError, match=r"has no data set CooperBench/.*HF_TOKEN.*dataset\.dir"):
        module.fetch_and_check(plan)


def test_config_lock_and_shipped_revision_take_precedence_in_this_order() -> None:
    pinned, saved = module.read_known(), module.Lock("x/y", "a" * 40)
    assert config_schema.Dataset().revision == config_schema.PINNED
    for configured, lock, repository, revision in (
        ("b" * 40, saved, pinned.repository, "b" * 40),
        ("main", saved, pinned.repository, "main"),
        ("a" * 40, saved, "x/y", "a" * 40),
        (config_schema.PINNED, saved, "x/y", "a" * 40),
        (None, saved, "x/y", "a" * 40),
        (config_schema.PINNED, None, pinned.repository, pinned.revision),
        (None, None, pinned.repository, None),
    ):
        choice = module.choose_revision(configured, lock, "lock.json")
        assert (choice.repository, choice.revision) == (repository, revision), configured


def test_the_shipped_hashes_are_of_every_published_task() -> None:
    pinned = module.read_known()
    names = {f"{repo}/{task}" for repo, task in pairs.known_features()}
    assert set(pinned.tasks) == names
    assert all(len(value) == 64 for value in pinned.tasks.values())
    assert len(pinned.revision) == 40
    description = config_schema.Dataset.model_fields["revision"].description
    assert pinned.revision in str(description)


def test_a_copied_folder_is_compared_with_the_checked_copy_task_by_task(
    make_plan: Any,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = make_plan(dataset={"lock": str(tmp_path / "lock.json")})
    hashes = module.task_hashes(dataset, plan.pairs)
    pinned = module.KnownRevision("x/y", "c" * 40, hashes, "a copy")
    monkeypatch.setattr(module, "read_known", lambda: pinned)
    document = module.fetch_and_check(plan)
    assert document["checked"] == {"copy": "a copy", "compared": len(hashes), "differs": []}
    assert "compared with the copy that was checked (a copy): no difference" in (
        capsys.readouterr().out
    )
    patch = dataset / A / "task1" / "feature1" / "tests.patch"
    patch.write_text(patch.read_text() + "\n")
    document = module.fetch_and_check(plan)
    assert document["checked"]["differs"] == [f"{A}/1"]
    printed = capsys.readouterr().out
    assert f"1 of {len(hashes)} tasks differ from the copy that was checked (a copy):" in printed
    assert f"  {A}/1: its contents have another hash" in printed
    # A folder of another revision than the pinned revision is used, and named.
    module.mark_revision(dataset, "x/y", "d" * 40)
    _answer_with(monkeypatch, {None: "e" * 40})
    module.fetch_and_check(plan)
    printed = capsys.readouterr().out
    assert f"contains revision {'d' * 40}, which stays in use" in printed
    assert f"has {'c' * 40}" in printed
    assert f"the hub has a newer revision, {'e' * 40}; {'d' * 40} stays in use" in printed


def test_custom_tasks_are_not_compared_with_a_copy(
    make_plan: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    document = module.fetch_and_check(make_plan())
    assert document["checked"]["compared"] == 0
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
