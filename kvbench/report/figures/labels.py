"""Name values in a chart: short, drawable, and always distinct."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from kvbench.plan.axes import AXES
from kvbench.text import printable, shorten

__all__ = ["FONT", "LENGTH", "distinct", "drawable", "named"]

FONT = "DejaVu Sans"
"""Ships with matplotlib, so it is the same everywhere."""

LENGTH = 48
"""The most characters of one value in a label."""

_NAMES = {"off": "cache off", "dynamic": "cache on (dynamic)"}


def _text(field: str, value: object) -> str:
    if field == "cache":
        return _NAMES.get(str(value), f"cache {value}")
    return AXES[field].short(value) if field in AXES else str(value)


def named(field: str, values: Iterable[object], shown: Callable[[str], str]) -> dict[object, str]:
    """Return a text for each value of a field, numbered in this order if needed to tell them apart.

    `shown` converts a text for its medium: the font of charts lacks most scripts, a terminal does
    not.
    """
    known = list(dict.fromkeys(values))
    texts = [shown(_text(field, value)) for value in known]
    return dict(zip(known, distinct(texts, field.replace("_", " ")), strict=True))


def distinct(texts: Sequence[str], word: str, length: int = LENGTH) -> list[str]:
    """Return the texts, shortened if long, with no two equal.

    Texts that are still equal get their number as a prefix: `prompt 2: text:??`.
    """
    # Spaces at the end of a line are invisible.
    whole = [" ".join(text.split()) for text in texts]
    short = [shorten(text, length) for text in whole]
    for text in _repeated(short):
        places = [p for p, other in enumerate(short) if other == text and other != whole[p]]
        ends = _by_end([whole[place] for place in places], length)
        for place, end in zip(places, ends, strict=True):
            short[place] = end
    numbered = [f"{word} {number}: {text}" for number, text in enumerate(short, start=1)]
    repeated = _repeated(short)
    mixed = [n if s in repeated else s for n, s in zip(numbered, short, strict=True)]
    # A text may look like a number that was assigned here.
    return numbered if _repeated(mixed) else mixed


def drawable(text: str) -> str:
    """Return the text with `?` for characters without a glyph in the font, such as Chinese."""
    return "".join(c if ord(c) in _glyphs() else "?" for c in printable(text))


def _repeated(texts: Iterable[str]) -> set[str]:
    return {text for text, count in Counter(texts).items() if count > 1}


def _by_end(texts: Sequence[str], length: int) -> list[str]:
    """Return texts that are alike when shortened, starting where they begin to differ."""
    # Keep the end of the shared part, which leads up to the difference.
    shared = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    begin = max(len(list(shared)) - 4, 0)
    return [f"{text[:12]}...{shorten(text[begin:], length - 15)}" for text in texts]


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())
