"""What the cache buys: speedup against length and batch, and throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.report.figures.bars import Measure, bar_panels, one_size
from kvbench.report.figures.layout import device_panels, finish, fold, from_zero, panels
from kvbench.report.figures.lines import SERIES, Entry, Line, divided, entries_of, has_pair
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import draw_theory, line_style
from kvbench.report.units import significant, times
from kvbench.report.words import compared, speedup_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

__all__ = ["speedup", "speedup_map", "throughput"]

_MAPS_IN_A_ROW = 3
_BLACK = "#111111"
"""On bright cells: a page in the dark swaps the black of other text for white."""


def speedup(material: Material) -> Figure | None:
    """Draw speedup against new tokens, one line per batch size, with a reference line at 1."""
    lines = material.lines(has_pair)
    if not lines:
        return None
    if one_size(lines):
        return _bars(lines)
    shown = device_panels(lines, (_gain(lines),))
    expected = False
    for (axes,), here in shown.columns:
        for line in here:
            _draw_gain(axes, line)
            expected = draw_theory(axes, line, "expected_speedup") or expected
        axes.axhline(1, color="0.35", linewidth=1)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right"}
        axes.annotate("no speedup", (0.99, 1), va="bottom", fontsize=7.5, color="0.35", **place)
    from_zero(shown)
    entries = entries_of(lines)
    finish(shown.figure, shown.grid[0], entries, _marks("bands", entries, expected))
    return shown.figure


def _gain(lines: Sequence[Line]) -> str:
    return f"Speedup (time {divided(lines)})"


def _bars(lines: Sequence[Line]) -> Figure:
    measure = Measure(
        _gain(lines),
        lambda entry: entry.case.speedup,
        times,
        lambda entry: speedup_interval(entry.case),
        lambda entry: entry.case.expected_speedup,
        level=1,
    )
    shown, entries = bar_panels(lines, [measure]), entries_of(lines)
    expected = any(entry.case.expected_speedup is not None for entry in entries)
    finish(shown.figure, [], entries, _marks("lines", entries, expected))
    return shown.figure


def _marks(name: str, entries: Sequence[Entry], expected: bool) -> str:
    interval = "95 % CI"
    if any(speedup_interval(entry.case) is None for entry in entries):
        interval += f" (from {MIN_FOR_INTERVAL} rounds)"
    return f"{name}: {interval}{'; short dashes: expected from the lower bounds' * expected}"


def throughput(material: Material) -> Figure | None:
    """Draw tokens per second of the whole batch against batch size, at the longest length."""
    sweeps = [line for line in material.lines(along="batch_size") if len(line.entries) > 1]
    chosen = set(_longest(sweeps))
    if not chosen:
        return None
    # Repeat this, so a length is in the labels only if lines differ in it.
    lines = material.lines(chosen.__contains__, "batch_size")
    shown = device_panels(lines, ("Tokens per second (whole batch)",))
    for (axes,), here in shown.columns:
        for line in here:
            axes.plot(line.sizes, line.values("tokens_per_s_median"), **line_style(line))
    from_zero(shown)
    finish(shown.figure, shown.grid[0], entries_of(lines), "medians; spread not shown")
    return shown.figure


def speedup_map(material: Material) -> Figure | None:
    """Draw a heat map of the speedup over batch size and new tokens, with numbers in the cells."""
    from matplotlib.colors import LogNorm

    # A map with one row is a line, which has its own chart.
    maps = [(head, cells) for head, cells in material.grids(has_pair) if min(_sides(cells)) > 1]
    if not maps:
        return None
    entries = [entry for _, cells in maps for entry in cells]
    ratio = compared([entry.case for entry in entries])
    rows = math.ceil(len(maps) / _MAPS_IN_A_ROW)
    batches, lengths = map(max, zip(*(_sides(cells) for _, cells in maps), strict=True))
    # Cells fit their numbers, whatever the size of the grid.
    width, height = max(4.5, 0.7 + 0.55 * lengths), max(3.0, 0.9 + 0.3 * batches)
    figure, grid = panels(math.ceil(len(maps) / rows), rows, width=width, height=height)
    values = [entry.case.speedup for entry in entries if entry.case.speedup is not None]
    # Ratios are symmetric on a log scale: twice as fast is as far from 1 as half as fast. One norm
    # makes maps comparable.
    least, most = min(values), max(values)
    norm = LogNorm(least, most)
    for axes, (head, cells) in zip(grid.flat, maps, strict=False):
        _draw_map(axes, cells, norm)
        axes.set_title(fold(head, width - 0.7, 10), fontsize=10)
    for axes in list(grid.flat)[len(maps) :]:
        axes.remove()
    marks = f"number: time {ratio}; one color scale for all maps"
    finish(figure, [], entries, f"{marks}, {times(least)} dark to {times(most)} bright")
    return figure


def _draw_gain(axes: Axes, line: Line) -> None:
    middle, style = line.values("speedup"), line_style(line)
    axes.plot(line.sizes, middle, **style)
    ranges = (speedup_interval(entry.case) for entry in line.entries)
    ends = [found or (m, m) for found, m in zip(ranges, middle, strict=True)]
    low, high = [low for low, _ in ends], [high for _, high in ends]
    axes.fill_between(line.sizes, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _longest(lines: Sequence[Line]) -> list[Entry]:
    """Return the lines along the batch size at the longest length; all would be cluttered.

    Lines that differ only in the strategy use the longest length that all strategies have, or,
    without one, each its own longest.
    """
    found: list[Line] = []
    alike: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        first = line.entries[0]
        fields = [field for field in SERIES if field != "cache"]
        alike.setdefault(tuple(first.value(field) for field in fields), []).append(line)
    for members in alike.values():
        lengths: dict[str, set[int]] = {}
        for line in members:
            lengths.setdefault(line.cache, set()).add(_length(line))
        shared = set.intersection(*lengths.values())
        best = {cache: max(shared or own) for cache, own in lengths.items()}
        found += [line for line in members if _length(line) == best[line.cache]]
    return entries_of(found)


def _length(line: Line) -> int:
    return line.entries[0].case.max_new_tokens


def _sides(cells: Sequence[Entry]) -> tuple[int, int]:
    """Return the numbers of batch sizes and of lengths."""
    batches = {entry.case.batch_size for entry in cells}
    return len(batches), len({entry.case.max_new_tokens for entry in cells})


def _draw_map(axes: Axes, cells: Sequence[Entry], norm: Normalize) -> None:
    batches = sorted({entry.case.batch_size for entry in cells})
    tokens = sorted({entry.case.max_new_tokens for entry in cells})
    values = np.full((len(batches), len(tokens)), np.nan)
    for entry in cells:
        place = batches.index(entry.case.batch_size), tokens.index(entry.case.max_new_tokens)
        values[place] = entry.case.speedup
    axes.imshow(values, cmap="cividis", norm=norm, origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "-" if np.isnan(value) else f"{significant(float(value))}x"
        colour = "white" if norm(value) < 0.5 else _BLACK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(tokens)), [str(number) for number in tokens])
    axes.set_yticks(range(len(batches)), [str(number) for number in batches])
    axes.grid(visible=False)
    axes.set_xlabel("New tokens per sequence")
    axes.set_ylabel("Batch size (sequences)")
