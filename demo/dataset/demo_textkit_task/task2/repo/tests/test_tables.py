import pytest

from textkit import format_table


def test_columns_are_aligned():
    assert format_table([["tea", 3], ["coffee", 12]]) == "tea      3\ncoffee  12"


def test_headers():
    table = format_table([["tea", 3]], headers=["drink", "cups"])
    assert table.splitlines() == ["drink  cups", "-----  ----", "tea       3"]


def test_uneven_rows():
    with pytest.raises(ValueError):
        format_table([["a"], ["a", "b"]])
