"""Small functions for plain text."""

from .slug import slugify
from .tables import format_table
from .wrapping import wrap

__all__ = ["format_table", "slugify", "wrap"]
