"""Total time against new tokens, all strategies together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.analysis.generated import is_sampled
from kvbench.analysis.summary import CaseSummary
from kvbench.report.figures.bars import Measure, bar_panels, one_size
from kvbench.report.figures.layout import device_panels, finish, from_zero
from kvbench.report.figures.lines import Line
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import draw_theory, few_samples, line_style, plain_log
from kvbench.report.units import seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["total_time"]

_LABEL = "Total time (s)"


def total_time(material: Material) -> Figure | None:
    """Draw seconds of a whole generation against new tokens: linear above, log-log below.

    Bars where there is one size alone.
    """
    lines = material.lines()
    if not lines:
        return None
    if one_size(lines):
        return _bars(material, lines)
    several = len({size for line in lines for size in line.sizes}) > 1
    labels = (_LABEL, _LABEL) if several else (_LABEL,)
    panels = device_panels(lines, labels, height=3.6)
    few, floors = few_samples(material.entries), False
    for column, here in panels.columns:
        for axes in column:
            for line in here:
                _draw(axes, line, few)
                floors = draw_theory(axes, line, "floor_s") or floors
    from_zero(panels)
    if several:
        for column, _ in panels.columns:
            plain_log(column[1], "x", _ticks(lines))
            plain_log(column[1], "y")
    finish(panels.figure, panels.grid[0], material.entries, _marks(material, few, floors))
    return panels.figure


def _bars(material: Material, lines: Sequence[Line]) -> Figure:
    few = few_samples(material.entries)
    measure = Measure(
        _LABEL,
        lambda entry: entry.case.total_s_median,
        seconds,
        lambda entry: _spread(entry.case, few),
        lambda entry: entry.case.floor_s,
    )
    shown = bar_panels(lines, [measure])
    floors = any(entry.case.floor_s is not None for entry in material.entries)
    finish(shown.figure, [], material.entries, _marks(material, few, floors))
    return shown.figure


def _marks(material: Material, few: bool, floors: bool) -> str:
    bars = "min to max" if few else "quartiles"
    sampled = [is_sampled(entry.case) for entry in material.entries]
    if all(sampled):
        bars = "95 % intervals"
    elif any(sampled):
        bars += ", 95 % intervals for sampled totals"
    return f"bars: {bars}{'; short dashes: lower bounds' * floors}"


def _draw(axes: Axes, line: Line, few: bool) -> None:
    middle = line.values("total_s_median")
    ends = [_spread(entry.case, few) for entry in line.entries]
    errors = [
        [max(value - low, 0.0) for value, (low, _) in zip(middle, ends, strict=True)],
        [max(high - value, 0.0) for value, (_, high) in zip(middle, ends, strict=True)],
    ]
    style = line_style(line) | {"capsize": 3}
    axes.errorbar(line.sizes, middle, yerr=errors, **style)


def _spread(case: CaseSummary, few: bool) -> tuple[float, float]:
    """Return quartiles; or smallest and largest in a chart with too few samples for quartiles.

    Of an estimate, return its interval.
    """
    middle = case.total_s_median or 0.0
    if case.total_s_low is not None and case.total_s_high is not None:
        return case.total_s_low, case.total_s_high
    low = case.total_s_min if few else case.total_s_q1
    high = case.total_s_max if few else case.total_s_q3
    return (middle if low is None else low), (middle if high is None else high)


def _ticks(lines: Sequence[Line]) -> list[int]:
    """Return the measured sizes whose numbers fit on a logarithmic axis."""
    sizes = sorted({size for line in lines for size in line.sizes})
    # Fractions of an axis of about 4 inches.
    room = (0.1 + 0.1 * len(str(sizes[-1]))) / 4
    least = max(1.25, (sizes[-1] / sizes[0]) ** room)
    shown: list[int] = []
    for number in sizes:
        if not shown or number >= least * shown[-1]:
            shown.append(number)
    return shown
