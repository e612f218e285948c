"""A small plot of the speed-up, drawn in text."""

from __future__ import annotations

from collections.abc import Sequence

from kvbench.records.run import Run
from kvbench.report.figures.material import Line, Material, has_pair
from kvbench.report.units import times

__all__ = ["speedup_bars"]

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def speedup_bars(run: Run, width: int = 40) -> list[str]:
    """A bar for each length, as long as its speed-up; `width` characters for the largest.

    One block for each line of the speed-up chart, headed by its label. Empty without a speed-up.
    """
    lines = Material((run,)).lines("max_new_tokens", has_pair)
    largest = max((value for line in lines for value in line.values("speedup")), default=1.0)
    text: list[str] = []
    for line in lines:
        text += [f"{line.device}, {line.label}:", *_bars(line, largest, width), ""]
    return text[:-1]


def _bars(line: Line, largest: float, width: int) -> Sequence[str]:
    sizes = line.sizes("max_new_tokens")
    place = len(str(max(sizes)))
    return [
        f"  {size:>{place}} {_bar(value / largest, width)} {times(value)}"
        for size, value in zip(sizes, line.values("speedup"), strict=True)
    ]


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
