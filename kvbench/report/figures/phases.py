"""Prefill against decode: time to first token, and time between tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvbench.report.figures.bars import Measure, bar_panels, one_size
from kvbench.report.figures.layout import device_panels, finish, from_zero
from kvbench.report.figures.lines import entries_of
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import line_style
from kvbench.report.units import seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["phases"]


def phases(material: Material) -> Figure | None:
    """Draw time to first token above, mean time between tokens below, against new tokens."""
    lines = material.lines(lambda entry: entry.case.itl_s_median is not None)
    if not lines:
        return None
    if one_size(lines):
        measures = [
            Measure(
                "Time to first token (ms)",
                lambda entry: _ms(entry.case.ttft_s_median),
                lambda value: seconds(value / 1000),
            ),
            Measure(
                "Time between tokens (ms)",
                lambda entry: _ms(entry.case.itl_s_median),
                lambda value: seconds(value / 1000),
            ),
        ]
        shown = bar_panels(lines, measures)
        finish(shown.figure, [], entries_of(lines), "no spread shown")
        return shown.figure
    labels = ("Time to first token (ms)", "Time between tokens (ms)")
    panels = device_panels(lines, labels, height=3.0)
    for (first, between), here in panels.columns:
        for line in here:
            first.plot(line.sizes, line.values("ttft_s_median", 1000), **line_style(line))
            between.plot(line.sizes, line.values("itl_s_median", 1000), **line_style(line))
    from_zero(panels)
    finish(panels.figure, panels.grid[1], entries_of(lines), "medians; spread not shown")
    return panels.figure


def _ms(value: float | None) -> float | None:
    return None if value is None else value * 1000
