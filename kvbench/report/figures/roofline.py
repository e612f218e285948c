"""The roofline: achieved arithmetic against FLOPs per byte, below what a device allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kvbench.report.figures.layout import device_panels, finish
from kvbench.report.figures.lines import Entry, Line, entries_of
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import level_style, line_style, plain_log
from kvbench.theory.peaks import rates_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["roofline"]

_TERA = 1e12


def roofline(material: Material) -> Figure | None:
    """Draw TFLOP/s of each case against its FLOPs per byte, and the roof of its device and dtype.

    Source: Williams, Waterman and Patterson, Roofline (2009).
    """
    lines = material.lines(lambda entry: entry.case.floor_s is not None)
    if not lines:
        return None
    panels = device_panels(lines, ("TFLOP/s",), "FLOPs per byte of weights and cache read")
    for (axes,), here in panels.columns:
        for line in here:
            axes.plot([_intensity(e) for e in line.entries], _reached(line), **line_style(line))
        _draw_roofs(axes, entries_of(here))
        plain_log(axes, "x")
        plain_log(axes, "y")
    marks = "gray: limits of bandwidth (rising) and arithmetic (flat)"
    finish(panels.figure, panels.grid[0], entries_of(lines), marks)
    return panels.figure


def _intensity(entry: Entry) -> float:
    assert entry.case.flops is not None and entry.case.moved_bytes
    return entry.case.flops / entry.case.moved_bytes


def _reached(line: Line) -> list[float]:
    cases = [entry.case for entry in line.entries]
    return [(case.flops or 0) / (case.total_s_median or 1.0) / _TERA for case in cases]


def _draw_roofs(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw one roof for each device and dtype, over the measured intensities and beyond."""
    roofs: dict[tuple[float, float], str] = {}
    for entry in entries:
        rates = rates_of(entry.info, entry.case.device)
        if rates is not None and entry.case.dtype in rates.flops_per_s:
            roof = rates.read_bytes_per_s, rates.flops_per_s[entry.case.dtype]
            roofs.setdefault(roof, f"roof, {entry.case.dtype}, {_SOURCES[rates.source]}")
    found = [_intensity(entry) for entry in entries]
    for number, ((bandwidth, arithmetic), label) in enumerate(roofs.items()):
        ridge = arithmetic / bandwidth
        points = np.array([min(*found, ridge) / 2, ridge, max(*found, ridge) * 2])
        height = np.minimum(points * bandwidth, arithmetic) / _TERA
        axes.plot(points, height, label=label, **level_style(number))


_SOURCES = {"probe": "as probed", "published": "as published"}
