"""A small text plot of the speedup."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvbench.analysis.summary import CaseSummary, summarize_cases
from kvbench.records.run import Run
from kvbench.report.figures.lines import Line, has_pair, lines_of, texts_of, timed
from kvbench.report.units import times
from kvbench.text import printable

__all__ = ["speedup_bars"]

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_FEW = " (too few rounds for a claim)"


def speedup_bars(
    run: Run, width: int = 40, cases: Sequence[CaseSummary] | None = None
) -> list[str]:
    """Return one bar per length, scaled to its speedup; `width` characters for the largest.

    One block for each line along new tokens, headed by its label. Empty without a speedup.
    `cases` is the summary of the run, for who has it already.
    """
    found = summarize_cases(run.samples) if cases is None else cases
    entries = timed(run.info.name, run.info, found)
    # A terminal has glyphs that the font of the charts lacks.
    texts = texts_of(entries, printable)
    lines = lines_of([entry for entry in entries if has_pair(entry)], "max_new_tokens", texts)
    largest = max((value for line in lines for value in line.values("speedup")), default=1.0)
    text: list[str] = []
    for line in lines:
        text += [f"{line.device}, {line.label}:", *_bars(line, largest, width), ""]
    return text[:-1]


def _bars(line: Line, largest: float, width: int) -> Sequence[str]:
    place = len(str(max(line.sizes)))
    known = [not math.isnan(value) for value in line.values("speedup_ci95_low")]
    return [
        f"  {size:>{place}} {_bar(value / largest, width)} {times(value)}{'' if sure else _FEW}"
        for size, value, sure in zip(line.sizes, line.values("speedup"), known, strict=True)
    ]


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
