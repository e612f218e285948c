"""Text that people typed, made fit for one line of output."""

from __future__ import annotations

__all__ = ["clip", "printable", "shorten"]


def printable(text: str) -> str:
    """The text with line breaks, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def clip(value: object, length: int = 60) -> str:
    """A value as text, cut where it is too long to be read in a sentence."""
    try:
        text = str(value)
    except ValueError:
        # Python refuses to print integers of more than 4300 digits.
        return "a number too long to print"
    return text if len(text) <= length else text[: length - 3] + "..."


def shorten(text: str, length: int = 40) -> str:
    """A long text without its middle: its ends tell it from others more often."""
    if len(text) <= length:
        return text
    head = (length - 3 + 1) // 2
    return f"{text[:head]}...{text[len(text) - (length - 3 - head) :]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
