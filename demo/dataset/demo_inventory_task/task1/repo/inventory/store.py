"""The store: how many of each item there are."""

from .model import Item, StockError


class Store:
    """Counts items; every change goes through add() and remove()."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._quantities: dict[str, int] = {}

    def add(self, item: Item, quantity: int = 1) -> None:
        """Put pieces of an item into the store."""
        if quantity < 0:
            raise ValueError("quantity cannot be negative")
        self._items.setdefault(item.sku, item)
        self._quantities[item.sku] = self.quantity(item.sku) + quantity

    def remove(self, sku: str, quantity: int = 1) -> None:
        """Take pieces out of the store; StockError when there are too few."""
        if quantity < 0:
            raise ValueError("quantity cannot be negative")
        self.item(sku)
        if quantity > self.quantity(sku):
            raise StockError(f"only {self.quantity(sku)} of {sku} in stock")
        left = self.quantity(sku) - quantity
        self._quantities[sku] = left

    def item(self, sku: str) -> Item:
        """The item with this sku; StockError when the store never had it."""
        try:
            return self._items[sku]
        except KeyError:
            raise StockError(f"no item {sku}") from None

    def items(self) -> list[Item]:
        """All items the store ever had, by sku."""
        return [self._items[sku] for sku in sorted(self._items)]

    def quantity(self, sku: str) -> int:
        """How many pieces are in the store; 0 for an unknown sku."""
        return self._quantities.get(sku, 0)
