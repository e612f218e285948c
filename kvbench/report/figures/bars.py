"""Bars: what charts are where there is one size alone, along which no line could run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvbench.analysis.generated import is_sampled
from kvbench.report.figures.labels import drawable
from kvbench.report.figures.layout import Panels, fold, panels
from kvbench.report.figures.lines import SIZES, Entry, Line, entries_of
from kvbench.report.figures.style import COLOURS, SAMPLED_BAR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Measure", "bar_panels", "one_size"]

_NAME_WIDTH = 1.9
"""Inches of a line of the names at the left."""

_SIZE = 8
"""Points of the names and the numbers."""


@dataclass(frozen=True)
class Measure:
    """A row of bar panels.

    Attributes:
        label: of the x axis.
        value: how long a bar is; None for no bar.
        text: the number at its end.
        ends: of the thin line across the end of a bar.
        theory: where theory expects the end of a bar.
        level: where a line goes across all bars.
    """

    label: str
    value: Callable[[Entry], float | None]
    text: Callable[[float], str]
    ends: Callable[[Entry], tuple[float, float] | None] = lambda entry: None
    theory: Callable[[Entry], float | None] = lambda entry: None
    level: float | None = None


def one_size(lines: Sequence[Line]) -> bool:
    """Return whether all cases of the lines have the same size."""
    return len({size for line in lines for size in line.sizes}) == 1


def bar_panels(lines: Sequence[Line], measures: Sequence[Measure]) -> Panels:
    """Draw one bar a line: a column of panels a device, a row a measure."""
    devices = list(dict.fromkeys(line.device for line in lines))
    by_device = [[line for line in lines if line.device == device] for device in devices]
    names = {line.label: fold(line.label, _NAME_WIDTH, _SIZE) for line in lines}
    # A name of several lines makes all bars as high as it needs.
    bar = 0.12 + 0.14 * max(name.count("\n") + 1 for name in names.values())
    height = 0.8 + bar * max(map(len, by_device))
    figure, grid = panels(len(devices), len(measures), height=height, sharex="row")
    columns = []
    for number, here in enumerate(by_device):
        column = grid[:, number]
        hardware = " / ".join(dict.fromkeys(entry.hardware for entry in entries_of(here)))
        size = f"{SIZES[here[0].along].label}: {here[0].sizes[0]}"
        head = fold(drawable(f"{devices[number]}: {hardware}"), 4.3, 10)
        column[0].set_title(f"{head}\n{size}", fontsize=10)
        for axes, measure in zip(column, measures, strict=True):
            for place, line in enumerate(here):
                _draw_bar(axes, place, measure, line.entries[0], COLOURS[line.look.colour])
            if measure.level is not None:
                axes.axvline(measure.level, color="0.35", linewidth=1)
            axes.set_yticks(range(len(here)), [names[line.label] for line in here], fontsize=_SIZE)
            axes.set_ylim(len(here) - 0.4, -0.6)
            axes.margins(x=0.18)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel(measure.label)
        columns.append((column, here))
    for axes in grid.flat:
        axes.set_xlim(left=0)
    return Panels(figure, grid, tuple(columns))


def _draw_bar(axes: Axes, place: int, measure: Measure, entry: Entry, color: str) -> None:
    value = measure.value(entry)
    if value is None or math.isnan(value):
        return
    # Its name is next to it: it needs no hatch.
    edge = SAMPLED_BAR if is_sampled(entry.case) else {}
    axes.barh(place, value, 0.8, color=color, **edge)
    low, high = measure.ends(entry) or (value, value)
    if low < high:
        axes.errorbar(
            value,
            place,
            xerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]],
            color="0.25",
            linewidth=1,
            capsize=3,
        )
    expected = measure.theory(entry)
    if expected is not None:
        ends = place - 0.45, place + 0.45
        axes.plot([expected, expected], ends, color=COLOURS[-1], linestyle=(0, (2, 1)))
    axes.annotate(
        measure.text(value),
        (max(high, value, expected or 0.0), place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=_SIZE,
    )
