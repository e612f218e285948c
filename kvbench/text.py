"""Make user-supplied text fit for one line of output."""

from __future__ import annotations

__all__ = ["clip", "printable", "shorten"]


def printable(text: str) -> str:
    """Return the text with line breaks, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def clip(value: object, length: int = 60) -> str:
    """Return a value as text, clipped if it is too long for a sentence."""
    try:
        text = str(value)
    except ValueError:
        # Python refuses to print integers of more than 4300 digits.
        return "a number too long to print"
    return text if len(text) <= length else text[: length - 3] + "..."


def shorten(text: str, length: int = 40) -> str:
    """Return a long text without its middle: its ends are more often distinctive."""
    if len(text) <= length:
        return text
    head = (length - 3 + 1) // 2
    return f"{text[:head]}...{text[len(text) - (length - 3 - head) :]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
