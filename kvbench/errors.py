"""The one exception that means: the user can fix this."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from kvbench.text import clip, printable, shorten

__all__ = ["UserError", "check_choice", "did_you_mean", "one_line"]


_LONGEST_QUOTE, _LONGEST_SENTENCE = 255, 1000
"""Long enough for a long path or a list of changes."""

_QUOTED = re.compile(r"(?<!\w)'([^']{256,})'(?!\w)")


class UserError(Exception):
    """A user mistake, reported in one sentence that says how to fix it.

    The command line prints the sentence and exits with code 2, without a traceback. The sentence
    may quote anything a person typed: unprintable characters are escaped, which keeps it on one
    line, and it ends with a period.

    The sentence is only for people. Code and tests distinguish mistakes by `kind` and `fields`.

    Attributes:
        kind: the kind of mistake, such as `device_absent`.
        fields: what the mistake is about, such as `{"device": "cuda"}`; plain values and paths.
    """

    def __init__(self, sentence: str, *, kind: str = "other", **fields: Any) -> None:
        line = one_line(sentence)
        super().__init__(line if line.endswith((".", "?", "!")) else line + ".")
        self.kind, self.fields = kind, fields


def one_line(sentence: str) -> str:
    """Return a sentence that fits on one line, whatever it quotes."""
    line = printable(sentence).rstrip()
    line = _QUOTED.sub(lambda found: f"'{shorten(found[1], _LONGEST_QUOTE)}'", line)
    words = (shorten(word, _LONGEST_QUOTE) for word in line.split(" "))
    return shorten(" ".join(words), _LONGEST_SENTENCE)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the hint `"; did you mean 'x'?"` for the nearest known word, or an empty string."""
    # Clipped: text far longer than every known word has no near match, and is slow to compare.
    near = difflib.get_close_matches(clip(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def check_choice(option: str, noun: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among the known ones.

    Raises:
        UserError: the name is unknown; the message lists the known names and suggests the nearest
            one.
    """
    known = list(known)
    if value not in known:
        hint = did_you_mean(value, known)
        raise UserError(
            f"{option}: no {noun} '{clip(value)}'; known: {', '.join(known)}{hint}",
            kind="unknown_choice",
            option=option,
            value=value,
        )
