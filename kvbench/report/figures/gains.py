"""What the cache buys: speed-up against length and batch, and throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvbench.report.figures.material import Entry, Line, Material, entries_of, has_pair
from kvbench.report.figures.style import (
    add_caption,
    device_panels,
    drawable,
    few_samples,
    from_zero,
    legend,
    line_style,
    panels,
)
from kvbench.report.units import significant
from kvbench.report.words import speedup_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["speedup", "speedup_map", "throughput"]

_MAP = ("run", "model", "weights", "device", "dtype", "attention", "cache", "prompt")


def speedup(material: Material) -> Figure | None:
    """Speed-up against new tokens, one line per batch size, with the line at 1."""
    lines = material.lines("max_new_tokens", has_pair)
    if not lines:
        return None
    shown = device_panels(lines, ("Time without the cache / with it",), "New tokens per sequence")
    for (axes,), here in shown.columns:
        for number, line in enumerate(here):
            # All are cached: the colour is free to tell the lines apart.
            _draw_gain(axes, line, line_style(line, number))
        axes.axhline(1, color="0.35", linewidth=1)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right"}
        axes.annotate(
            "as fast as without", (0.99, 1), va="bottom", fontsize=7.5, color="0.35", **place
        )
    from_zero(shown)
    legend(shown.figure, shown.grid[0])
    entries = entries_of(lines)
    bands = "range over the rounds" if few_samples(entries) else "95 % bootstrap interval"
    add_caption(shown.figure, entries, f"bands: {bands}")
    return shown.figure


def throughput(material: Material) -> Figure | None:
    """Tokens per second of the whole batch against batch size, at the longest length."""
    lines = [line for line in material.lines("batch_size") if len(line.entries) > 1]
    if not lines:
        return None
    # All lengths would be a thicket.
    longest = max(line.entries[0].case.max_new_tokens for line in lines)
    lines = [line for line in lines if line.entries[0].case.max_new_tokens == longest]
    shown = device_panels(
        lines,
        ("New tokens of the batch per second",),
        f"Batch size (sequences), {longest} new tokens each",
    )
    for (axes,), here in shown.columns:
        for line in here:
            rates = line.values("tokens_per_s_median")
            axes.plot(line.sizes("batch_size"), rates, **line_style(line))
    from_zero(shown)
    legend(shown.figure, shown.grid[0])
    add_caption(shown.figure, entries_of(lines), "no spread shown")
    return shown.figure


def speedup_map(material: Material) -> Figure | None:
    """A heat map of the speed-up over batch size and new tokens, the numbers in the cells."""
    maps: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries_of(material.lines("max_new_tokens", has_pair)):
        maps.setdefault(tuple(entry.value(name) for name in _MAP), []).append(entry)
    # A map of one row is a line, and has a chart of its own.
    shown = [members for members in maps.values() if min(_sides(members)) > 1]
    if not shown:
        return None
    figure, grid = panels(len(shown), height=3.2)
    for axes, members in zip(grid[0], shown, strict=True):
        _draw_map(axes, members)
    entries = [entry for members in shown for entry in members]
    add_caption(figure, entries, "number: time without the cache over time with it")
    return figure


def _draw_gain(axes: Axes, line: Line, style: dict[str, Any]) -> None:
    tokens, middle = line.sizes("max_new_tokens"), line.values("speedup")
    axes.plot(tokens, middle, **style)
    ranges = (speedup_range(entry.case) for entry in line.entries)
    ends = [found or (m, m) for found, m in zip(ranges, middle, strict=True)]
    low, high = [low for low, _ in ends], [high for _, high in ends]
    axes.fill_between(tokens, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _sides(members: list[Entry]) -> tuple[int, int]:
    batches = {entry.case.batch_size for entry in members}
    return len(batches), len({entry.case.max_new_tokens for entry in members})


def _draw_map(axes: Axes, members: list[Entry]) -> None:
    from matplotlib.colors import LogNorm

    batches = sorted({entry.case.batch_size for entry in members})
    tokens = sorted({entry.case.max_new_tokens for entry in members})
    values = np.full((len(batches), len(tokens)), np.nan)
    for entry in members:
        place = batches.index(entry.case.batch_size), tokens.index(entry.case.max_new_tokens)
        values[place] = entry.case.speedup
    # Ratios: twice as fast is as far from 1 as half as fast.
    norm = LogNorm(np.nanmin(values), np.nanmax(values))
    axes.imshow(values, cmap="cividis", norm=norm, origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "-" if np.isnan(value) else f"{significant(float(value))}x"
        colour = "white" if norm(value) < 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(tokens)), [str(number) for number in tokens])
    axes.set_yticks(range(len(batches)), [str(number) for number in batches])
    axes.grid(visible=False)
    axes.set_xlabel("New tokens per sequence")
    axes.set_ylabel("Batch size (sequences)")
    first = members[0].case
    axes.set_title(drawable(f"{first.device}: {first.cache}, {first.dtype}"), fontsize=10)
