"""The charts: one function each in one registry, drawn only if their data exist."""

from __future__ import annotations

from kvbench.report.figures.material import Material
from kvbench.report.figures.registry import (
    CHARTS,
    Chart,
    Drawing,
    check_charts,
    draw_charts,
    image_kind,
    to_bytes,
    write_charts,
)

__all__ = [
    "CHARTS",
    "Chart",
    "Drawing",
    "Material",
    "check_charts",
    "draw_charts",
    "image_kind",
    "to_bytes",
    "write_charts",
]
