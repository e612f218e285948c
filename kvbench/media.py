"""Escape text for output: one function for each medium that interprets some characters.

A model name, a prompt or an error may come from somebody else's run folder. The template engine
escapes HTML; `kvbench.report.figures.labels.drawable` handles charts.
"""

from __future__ import annotations

import json
import re
from typing import Any

from kvbench.text import printable

__all__ = ["for_csv", "for_json", "for_markdown", "for_terminal", "to_text"]

_MARKUP = re.compile(
    # Links and pictures need the brackets; an underscore inside a word is not markup, and a bare
    # address becomes a link through the characters after its scheme.
    r"([\\`*\[\]<>|#&~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.)"
)
_FIRST = re.compile(r"^(?:(\d{1,9})([.)])(?= )|()([-+])(?= )|()([-=])(?=\6+$))")
"""What turns a line into a list item, a rule or a heading."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def for_terminal(text: str) -> str:
    """Return text without terminal control sequences; its lines are kept."""
    return "\n".join(printable(line) for line in text.split("\n"))


def for_csv(text: str) -> str:
    """Return the text of a cell, escaped so that a spreadsheet does not read it as a formula.

    A leading apostrophe means "text" there. Do not pass numbers. A cell may have several lines.
    """
    return for_terminal("'" + text if text.startswith(_FORMULA) else text)


def to_text(value: Any) -> str:
    """Return a value as CSV text: null is empty, a flag is true or false, a float round-trips."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def for_markdown(text: str) -> str:
    """Return text on one line, escaped for Markdown and HTML."""
    line = _MARKUP.sub(r"\\\1", printable(" ".join(text.split())))
    found = _FIRST.match(line)
    if found is None:
        return line
    number, mark = found[0][:-1], found[0][-1]
    return f"{number}\\{mark}{line[found.end() :]}"


def for_json(document: str, encoding: str | None = None) -> str:
    """Return a JSON document with escapes for what cannot be printed or encoded."""
    return "".join(c if c == "\n" or _fits(c, encoding) else _escaped(c) for c in document)


def _fits(character: str, encoding: str | None) -> bool:
    if character.isascii():
        # JSON's own rule already escapes control characters, except this one.
        return character != "\x7f"
    try:
        character.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return character.isprintable()


def _escaped(character: str) -> str:
    return r"\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
