"""What a store holds, as numbers and as text."""

from .store import Store


def total_value_cents(store: Store) -> int:
    """The value of everything in stock, in cents."""
    return sum(store.quantity(item.sku) * item.price_cents for item in store.items())


def summary(store: Store) -> str:
    """One line for each item: sku, name, quantity; by sku."""
    lines = [f"{item.sku}  {item.name}  {store.quantity(item.sku)}" for item in store.items()]
    return "\n".join(lines)
