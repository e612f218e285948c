"""Prefill against decode: time to first token, and time between tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvbench.report.figures.layout import device_panels, finish, from_zero
from kvbench.report.figures.lines import entries_of
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["phases"]


def phases(material: Material) -> Figure | None:
    """Draw time to first token above, mean time between tokens below, against new tokens."""
    lines = material.lines(lambda entry: entry.case.itl_s_median is not None)
    if not lines:
        return None
    labels = ("Time to first token (ms)", "Time between tokens (ms)")
    panels = device_panels(lines, labels, height=3.0)
    for (first, between), here in panels.columns:
        for line in here:
            first.plot(line.sizes, line.values("ttft_s_median", 1000), **line_style(line))
            between.plot(line.sizes, line.values("itl_s_median", 1000), **line_style(line))
    from_zero(panels)
    finish(panels.figure, panels.grid[1], entries_of(lines), "no spread shown")
    return panels.figure
