"""Time to first token against the turn of a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvbench.report.figures.layout import device_panels, finish, from_zero
from kvbench.report.figures.lines import entries_of
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["turns"]


def turns(material: Material) -> Figure | None:
    """Draw milliseconds to the first token of each turn, for all kinds of reuse."""
    lines = material.lines(lambda entry: entry.case.ttft_s_median is not None, "turn")
    drawn = [line for line in lines if len(line.entries) > 1]
    if not drawn:
        return None
    panels = device_panels(drawn, ("Time to first token (ms)",))
    for (axes,), here in panels.columns:
        for line in here:
            axes.plot(line.sizes, line.values("ttft_s_median", 1000), **line_style(line))
    from_zero(panels)
    finish(panels.figure, panels.grid[0], entries_of(drawn), "spread not shown")
    return panels.figure
