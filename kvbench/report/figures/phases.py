"""Prefill against decode: the first token, and the time between the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvbench.report.figures.material import Material, entries_of
from kvbench.report.figures.style import (
    add_caption,
    device_panels,
    from_zero,
    legend,
    line_style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["phases"]


def phases(material: Material) -> Figure | None:
    """Time to first token above, mean time between tokens below, against new tokens."""
    lines = material.lines("max_new_tokens", lambda case: case.itl_s_median is not None)
    if not lines:
        return None
    labels = ("Time to first token (ms)", "Time between tokens (ms)")
    panels = device_panels(lines, labels, "New tokens per sequence", height=3.0)
    for (first, between), here in panels.columns:
        for line in here:
            tokens = line.sizes("max_new_tokens")
            first.plot(tokens, line.values("ttft_s_median", 1000), **line_style(line))
            between.plot(tokens, line.values("itl_s_median", 1000), **line_style(line))
    from_zero(panels)
    legend(panels.figure, panels.grid[1])
    add_caption(panels.figure, entries_of(lines), "no spread shown")
    return panels.figure
