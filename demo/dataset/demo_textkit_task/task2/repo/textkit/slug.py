"""Slugs: short names made of plain letters, digits and separators."""

import re
import unicodedata


def slugify(text: str, separator: str = "-") -> str:
    """The text in lower case, without accents, its words joined by the separator."""
    decomposed = unicodedata.normalize("NFKD", text)
    plain = decomposed.encode("ascii", "ignore").decode("ascii").lower()
    words = re.findall(r"[a-z0-9]+", plain)
    return separator.join(words)
