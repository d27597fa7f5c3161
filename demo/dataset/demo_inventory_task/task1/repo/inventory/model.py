"""What is kept in stock, and what can go wrong with it."""

from dataclasses import dataclass


class StockError(Exception):
    """A request the stock cannot meet: an unknown item, or too few of it."""


@dataclass(frozen=True)
class Item:
    """One kind of thing in stock.

    sku is its key and stands on the shelf; price_cents is the price of one piece.
    """

    sku: str
    name: str
    price_cents: int = 0

    def __post_init__(self) -> None:
        if not self.sku:
            raise ValueError("an item needs a sku")
        if self.price_cents < 0:
            raise ValueError("a price cannot be negative")
