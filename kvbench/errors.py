"""The one exception that means: the person at the keyboard can mend this."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from kvbench.text import clip, printable, shorten

__all__ = ["UserError", "check_choice", "did_you_mean", "one_line"]


_LONGEST_QUOTE, _LONGEST_SENTENCE = 255, 1000
"""A path may be long, and a list of what has changed."""

_QUOTED = re.compile(r"(?<!\w)'([^']{256,})'(?!\w)")


class UserError(Exception):
    """A mistake in what was asked for, told in one sentence that says what would be right.

    The command line prints the sentence and exits with code 2, without a traceback. Whatever a
    person typed may stand in it: characters that do not print are escaped, so that it stays one
    line, and it ends as a sentence does.

    The sentence is for people alone. Code and tests tell mistakes apart by `kind` and `fields`.

    Attributes:
        kind: which mistake it is, such as `device_absent`.
        fields: what the mistake is about, such as `{"device": "cuda"}`; plain values and paths.
    """

    def __init__(self, sentence: str, *, kind: str = "other", **fields: Any) -> None:
        line = one_line(sentence)
        super().__init__(line if line.endswith((".", "?", "!")) else line + ".")
        self.kind, self.fields = kind, fields


def one_line(sentence: str) -> str:
    """Return a sentence that can be read on one line, whatever was quoted in it."""
    line = printable(sentence).rstrip()
    line = _QUOTED.sub(lambda found: f"'{shorten(found[1], _LONGEST_QUOTE)}'", line)
    words = (shorten(word, _LONGEST_QUOTE) for word in line.split(" "))
    return shorten(" ".join(words), _LONGEST_SENTENCE)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint `"; did you mean 'x'?"` for the nearest known word, or an empty string."""
    # Clipped: what is far longer than all known words is near to none, and slow to compare.
    near = difflib.get_close_matches(clip(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def check_choice(option: str, noun: str, value: str, known: Iterable[str]) -> None:
    """Refuse what is none of the known names of something.

    Raises:
        UserError: says what there is, and which of them may be meant.
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
