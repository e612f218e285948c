"""Energy per token, and how much of it the cache saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.report.figures.labels import drawable
from kvbench.report.figures.layout import device_panels, finish, fold, from_zero, panels
from kvbench.report.figures.lines import Entry, Line, divided, entries_of
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import COLOURS, line_style
from kvbench.report.units import significant, times
from kvbench.report.words import energy_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["energy"]

_JOULES = "Energy per new token (J)"
_METHODS = {
    "nvml-total-energy": "NVML's energy counter of the whole board",
    "rapl-package": "RAPL's counters of the processor packages",
}
"""The names of reading methods in a caption; others appear as they are."""

_BAR = 1.0
"""Width of a bar in inches, with room for the text above and below it."""


def energy(material: Material) -> Figure | None:
    """Draw joules per new token of each strategy, and the ratio to the baseline.

    Lines along a size; bars if there is only one size.
    """
    lines = material.lines(lambda entry: entry.case.energy_j_per_token is not None)
    if not lines:
        return None
    draw: Callable[[Sequence[Line]], Figure] = _lines
    if len({size for line in lines for size in line.sizes}) == 1:
        draw = _bars
    return draw(lines)


def _lines(lines: Sequence[Line]) -> Figure:
    compared = any(_ratio(entry) is not None for entry in entries_of(lines))
    labels = (_JOULES, f"Energy ratio, {divided(lines)}") if compared else (_JOULES,)
    shown = device_panels(lines, labels, height=3.2)
    for column, here in shown.columns:
        for line in here:
            low, high = _errors(line.entries)
            style = line_style(line) | {"capsize": 3}
            middle = line.values("energy_j_per_token")
            column[0].errorbar(line.sizes, middle, yerr=[low, high], **style)
            if compared and any(_ratio(entry) is not None for entry in line.entries):
                _draw_ratio(column[1], line)
        if compared:
            column[1].axhline(1, color="0.35", linewidth=1)
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right"}
            column[1].annotate(
                "no difference", (0.99, 1), va="bottom", fontsize=7.5, color="0.35", **place
            )
    from_zero(shown)
    entries = entries_of(lines)
    marks = f"{_method(entries)}, bars: min to max"
    if compared:
        marks += f"; band: 95 % CI{_few(entries)}"
    finish(shown.figure, shown.grid[0], entries, marks)
    return shown.figure


def _bars(lines: Sequence[Line]) -> Figure:
    """Draw one bar per line, one panel per device, with joules and ratio above each bar."""
    devices = list(dict.fromkeys(line.device for line in lines))
    by_device = [[line for line in lines if line.device == device] for device in devices]
    width = max(5.0, 0.8 + _BAR * max(map(len, by_device)))
    figure, grid = panels(len(devices), width=width)
    for axes, device, here in zip(grid[0], devices, by_device, strict=True):
        hardware = " / ".join(dict.fromkeys(line.entries[0].hardware for line in here))
        axes.set_title(fold(drawable(f"{device}: {hardware}"), width - 0.7, 10), fontsize=10)
        for place, line in enumerate(here):
            _draw_bar(axes, place, line.entries[0], COLOURS[line.look.colour])
        names = [fold(line.label, _BAR, 8) for line in here]
        axes.set_xticks(range(len(here)), names, fontsize=8)
        axes.set_xlim(-0.6, len(here) - 0.4)
        axes.margins(y=0.25)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(_JOULES)
    entries = entries_of(lines)
    marks = f"{_method(entries)}, lines: min to max"
    if any(_ratio(entry) is not None for entry in entries):
        marks += f"; below the joules: ratio {divided(lines)} with 95 % CI{_few(entries)}"
    # The bars have their names below them.
    finish(figure, [], entries, marks)
    return figure


def _draw_bar(axes: Axes, place: int, entry: Entry, color: str) -> None:
    joules = entry.case.energy_j_per_token or 0.0
    low, high = _errors([entry])
    axes.bar(place, joules, 0.8, color=color)
    axes.errorbar(place, joules, yerr=[low, high], color="0.25", linewidth=1, capsize=3)
    text = [f"{significant(joules)} J"]
    if (ratio := _ratio(entry)) is not None:
        text.append(times(ratio))
        if (interval := energy_interval(entry.case)) is not None:
            text.append(f"({significant(interval[0])}-{significant(interval[1])})")
    top: Any = (place, joules + high[0])
    axes.annotate(
        "\n".join(text),
        top,
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
    )


def _draw_ratio(axes: Axes, line: Line) -> None:
    middle, style = line.values("energy_ratio"), line_style(line)
    axes.plot(line.sizes, middle, **style)
    found = (energy_interval(entry.case) for entry in line.entries)
    ends = [interval or (m, m) for interval, m in zip(found, middle, strict=True)]
    low, high = zip(*ends, strict=True)
    axes.fill_between(line.sizes, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _errors(entries: Sequence[Entry]) -> tuple[list[float], list[float]]:
    """Return the distances of the smallest and the largest reading from the median."""
    low, high = [], []
    for entry in entries:
        case, middle = entry.case, entry.case.energy_j_per_token or 0.0
        least, most = case.energy_j_per_token_min, case.energy_j_per_token_max
        low.append(middle - (middle if least is None else least))
        high.append((middle if most is None else most) - middle)
    return low, high


def _ratio(entry: Entry) -> float | None:
    return None if entry.case.is_baseline else entry.case.energy_ratio


def _method(entries: Sequence[Entry]) -> str:
    found = dict.fromkeys(entry.case.energy_method or "unknown counter" for entry in entries)
    text = " / ".join(_METHODS.get(method, method) for method in found)
    counts = sorted({entry.case.energy_samples or 0 for entry in entries})
    if counts == sorted({entry.case.samples for entry in entries}):
        return text
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text}, from {number} of these"


def _few(entries: Sequence[Entry]) -> str:
    known = (entry.case for entry in entries if _ratio(entry) is not None)
    few = any(energy_interval(case) is None for case in known)
    return f" (from {MIN_FOR_INTERVAL} rounds)" if few else ""
