"""A small stock-keeping library."""

from .model import Item, StockError
from .report import summary, total_value_cents
from .store import Store

__all__ = ["Item", "StockError", "Store", "summary", "total_value_cents"]
