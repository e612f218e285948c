"""The one exception that means: the person at the keyboard can mend this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kvbench.text import printable

__all__ = ["UserError", "check_choice", "did_you_mean"]


class UserError(Exception):
    """A mistake in what was asked for, told in one sentence that says what would be right.

    The command line prints the sentence and exits with code 2, without a traceback. Whatever a
    person typed may stand in it: characters that do not print are escaped, so that it stays one
    line, and it ends as a sentence does.
    """

    def __init__(self, sentence: str) -> None:
        line = printable(sentence).rstrip()
        super().__init__(line if line.endswith((".", "?", "!")) else line + ".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint `"; did you mean 'x'?"` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def check_choice(option: str, noun: str, value: str, known: Iterable[str]) -> None:
    """Refuse what is none of the known names of something.

    Raises:
        UserError: says what there is, and which of them may be meant.
    """
    known = list(known)
    if value not in known:
        hint = did_you_mean(value, known)
        raise UserError(f"{option}: no {noun} '{value}'; known: {', '.join(known)}{hint}")
