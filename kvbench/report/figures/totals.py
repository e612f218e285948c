"""Total time against new tokens, both arms together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.analysis.summary import CaseSummary
from kvbench.report.figures.material import Line, Material
from kvbench.report.figures.style import (
    add_caption,
    device_panels,
    few_samples,
    from_zero,
    legend,
    line_style,
    plain_log,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["total_time"]

_LABEL = "Time of the whole generation (s)"


def total_time(material: Material) -> Figure | None:
    """Seconds of a whole generation against new tokens: linear above, log-log below."""
    lines = material.lines("max_new_tokens")
    if not lines:
        return None
    several = len({e.case.max_new_tokens for e in material.entries}) > 1
    labels = (_LABEL, _LABEL) if several else (_LABEL,)
    panels = device_panels(lines, labels, "New tokens per sequence", height=3.6)
    few = few_samples(material.entries)
    for column, here in panels.columns:
        for axes in column:
            for line in here:
                _draw(axes, line, few)
    from_zero(panels)
    if several:
        for column, here in panels.columns:
            plain_log(column[1], "x")
            plain_log(column[1], "y")
            # The limits were zero, which has no logarithm.
            column[1].autoscale()
            column[1].set_xticks(_ticks(here))
    legend(panels.figure, panels.grid[0])
    bars = "smallest to largest" if few else "quartiles"
    add_caption(panels.figure, material.entries, f"bars: {bars}")
    return panels.figure


def _draw(axes: Axes, line: Line, few: bool) -> None:
    middle = line.values("total_s_median")
    ends = [_spread(entry.case, few) for entry in line.entries]
    errors = [
        [max(value - low, 0.0) for value, (low, _) in zip(middle, ends, strict=True)],
        [max(high - value, 0.0) for value, (_, high) in zip(middle, ends, strict=True)],
    ]
    tokens = line.sizes("max_new_tokens")
    axes.errorbar(tokens, middle, yerr=errors, capsize=3, **line_style(line))


def _spread(case: CaseSummary, few: bool) -> tuple[float, float]:
    """Quartiles; smallest and largest in a chart that has too few samples for quartiles."""
    middle = case.total_s_median or 0.0
    low = case.total_s_min if few else case.total_s_q1
    high = case.total_s_max if few else case.total_s_q3
    return (middle if low is None else low), (middle if high is None else high)


def _ticks(lines: Sequence[Line]) -> list[int]:
    """The measured lengths, as far as their numbers have room on a logarithmic axis."""
    shown: list[int] = []
    for number in sorted({size for line in lines for size in line.sizes("max_new_tokens")}):
        if not shown or number >= 1.25 * shown[-1]:
            shown.append(number)
    return shown
