"""The warm launcher: what it imports beforehand is there to be imported."""

from __future__ import annotations

import importlib

import pytest

from cooperflow.jobs import launcher


@pytest.mark.parametrize("name", launcher.WARM)
def test_what_is_warmed_exists(name: str) -> None:
    """A name that is gone would be passed over, and each job would be slow without a word."""
    assert importlib.import_module(name)
