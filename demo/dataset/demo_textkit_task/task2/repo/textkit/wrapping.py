"""Wrapping of paragraphs."""


def wrap(text: str, width: int = 72) -> list[str]:
    """The words of the text in lines of at most width characters; long words stay whole."""
    if width < 1:
        raise ValueError("width must be at least 1")
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines
