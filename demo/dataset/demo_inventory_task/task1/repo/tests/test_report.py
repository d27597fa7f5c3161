from inventory import Item, Store, summary, total_value_cents


def make_store() -> Store:
    store = Store()
    store.add(Item("N-10", "nut M10", price_cents=7), 3)
    store.add(Item("B-10", "bolt M10", price_cents=12), 40)
    return store


def test_total_value():
    assert total_value_cents(make_store()) == 3 * 7 + 40 * 12


def test_summary_is_sorted_by_sku():
    assert summary(make_store()) == "B-10  bolt M10  40\nN-10  nut M10  3"
