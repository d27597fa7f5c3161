"""Comparison of a packed table with the same table as this version computes it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import synthetic

from commands import bundle

NOW = "run,outcome,loss\nr1,pass,\nr2,fail,merge\n"


@pytest.mark.parametrize(
    ("packed", "detail"),
    [
        (NOW, "2 rows, the same"),
        ("run,outcome\nr1,pass\nr2,fail\n",
         "another version wrote it: packed without loss; the other columns are the same"),
        ("run,outcome\nr1,pass\nr2,pass\n",
         "another version wrote it: packed without loss; other columns differ too"),
        ("run,old,outcome\nr1,x,pass\nr2,x,fail\n",
         "another version wrote it: packed without loss; computed without old; the other columns"
         " are the same"),
        ("outcome,run,loss\npass,r1,\nfail,r2,merge\n",
         "another version wrote it: the columns have another order; the other columns are"
         " the same"),
        (NOW.replace("fail", "pass"), "line 3 differs"),
    ],
)  # fmt: skip
def test_a_packed_table_is_compared_with_the_computed_one(
    packed: str, detail: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / bundle.RESULTS).mkdir()
    (folder / bundle.RESULTS / "runs.csv").write_text(packed)
    (check,) = bundle._tables(folder, {"runs.csv": NOW})
    assert check.detail.startswith(detail)
    assert check.is_good is (packed == NOW)


def test_a_bundle_that_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = synthetic.make_plan(tmp_path, "flash", first=1)

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle, "_add", fill)
    with pytest.raises(OSError, match="No space"):
        bundle.pack(plan)
    assert not list(tmp_path.glob(".bundle*"))
