"""What the cache costs: memory, and energy."""

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
from kvbench.report.units import MIB
from kvbench.strategies import BASELINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["energy", "memory"]


def memory(material: Material) -> Figure | None:
    """Peak memory with the weights as a base line above, exact cache bytes below."""
    lines = material.lines("max_new_tokens", lambda case: case.memory_peak_bytes is not None)
    if not lines:
        return None
    labels = ("Peak (MiB)", "Keys and values (MiB)")
    panels = device_panels(lines, labels, "New tokens per sequence", height=3.2)
    for (peaks, caches), here in panels.columns:
        for line in here:
            tokens = line.sizes("max_new_tokens")
            peaks.plot(tokens, line.values("memory_peak_bytes", 1 / MIB), **line_style(line))
            if line.cache != BASELINE:
                held = line.values("kv_cache_bytes", 1 / MIB)
                caches.plot(tokens, held, **line_style(line))
        for size in dict.fromkeys(entry.case.weights_bytes for entry in entries_of(here)):
            if size is not None:
                peaks.axhline(size / MIB, color="0.35", linewidth=1, linestyle=":", label="weights")
    from_zero(panels)
    legend(panels.figure, panels.grid[0])
    method = "peak: the resident set on a CPU, NVML's used memory on a GPU"
    add_caption(panels.figure, entries_of(lines), method)
    return panels.figure


def energy(material: Material) -> Figure | None:
    """Joules of the whole board per new token against new tokens."""
    lines = material.lines("max_new_tokens", lambda case: case.energy_j_per_token is not None)
    if not lines:
        return None
    labels = ("Energy of the board per new token (J)",)
    panels = device_panels(lines, labels, "New tokens per sequence")
    for (axes,), here in panels.columns:
        for line in here:
            tokens = line.sizes("max_new_tokens")
            axes.plot(tokens, line.values("energy_j_per_token"), **line_style(line))
    from_zero(panels)
    legend(panels.figure, panels.grid[0])
    add_caption(panels.figure, entries_of(lines), "NVML's energy counter")
    return panels.figure
