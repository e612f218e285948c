"""Text on its way out: one function for each medium that would act on some characters.

A model, a prompt or an error may come from somebody else's run folder. HTML is escaped by the
template engine, charts by `kvbench.report.figures.labels.drawable`.
"""

from __future__ import annotations

import json
import re

from kvbench.text import printable

__all__ = ["for_csv", "for_json", "for_markdown", "for_terminal"]

_MARKUP = re.compile(
    # Links and pictures need the brackets; an underscore inside a word is no markup, and a bare
    # address becomes a link by what follows its scheme.
    r"([\\`*\[\]<>|#&~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.)"
)
_FIRST = re.compile(r"^(?:(\d{1,9})([.)])(?= )|()([-+])(?= )|()([-=])(?=\6+$))")
"""What makes a list, a rule or a heading of a line."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def for_terminal(text: str) -> str:
    """Return text without what a terminal would obey; its lines stay lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def for_csv(text: str) -> str:
    """Return the text of a cell so that a spreadsheet does not take it for a formula.

    An apostrophe in front says "text" there. Numbers are not passed through here. A cell may have
    several lines.
    """
    return for_terminal("'" + text if text.startswith(_FORMULA) else text)


def for_markdown(text: str) -> str:
    """Return text, on one line, that neither Markdown nor HTML reads as markup."""
    line = _MARKUP.sub(r"\\\1", printable(" ".join(text.split())))
    found = _FIRST.match(line)
    if found is None:
        return line
    number, mark = found[0][:-1], found[0][-1]
    return f"{number}\\{mark}{line[found.end() :]}"


def for_json(document: str, encoding: str | None = None) -> str:
    """Return a JSON document with escapes for what does not print, or not in an encoding."""
    return "".join(c if c == "\n" or _fits(c, encoding) else _escaped(c) for c in document)


def _fits(character: str, encoding: str | None) -> bool:
    if character.isascii():
        # Control characters among them are escaped already, by JSON's own rule; all but this one.
        return character != "\x7f"
    try:
        character.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return character.isprintable()


def _escaped(character: str) -> str:
    return r"\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
