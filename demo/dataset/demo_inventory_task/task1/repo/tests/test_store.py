import pytest

from inventory import Item, StockError, Store

BOLT = Item("B-10", "bolt M10", price_cents=12)


def test_add_and_remove():
    store = Store()
    store.add(BOLT, 10)
    store.remove("B-10", 4)
    assert store.quantity("B-10") == 6


def test_remove_too_many():
    store = Store()
    store.add(BOLT, 1)
    with pytest.raises(StockError):
        store.remove("B-10", 2)
    assert store.quantity("B-10") == 1


def test_unknown_item():
    store = Store()
    assert store.quantity("X") == 0
    with pytest.raises(StockError):
        store.remove("X")


def test_negative_quantity():
    store = Store()
    with pytest.raises(ValueError):
        store.add(BOLT, -1)
