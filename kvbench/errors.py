"""The one exception that means: the person at the keyboard can mend this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kvbench.text import printable

__all__ = ["UserError", "did_you_mean"]


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
