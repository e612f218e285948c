"""CPU against GPU: bars with their ratio, and lines in one chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.plan.axes import AXES
from kvbench.report.figures.bars import one_size
from kvbench.report.figures.labels import drawable
from kvbench.report.figures.layout import finish, fold, panels
from kvbench.report.figures.lines import SIZES, Entry, Line, along_of
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import bar_styles, line_style, plain_log, x_label
from kvbench.report.units import seconds, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["devices"]

_WORK = tuple(name for name in AXES if name not in ("device", "cache"))
"""What defines the same work, on any device."""
_KIND = tuple(name for name in _WORK if not AXES[name].is_size)
_BAR = 0.54
"""Width of a bar in inches, with room for the number above it."""


def devices(material: Material) -> Figure | None:
    """Draw time on each kind of device at the longest shared length, and against length.

    Bars alone where there is one length.
    """
    compared = _compared(material.entries)
    if compared is None:
        return None
    places = _by_place(compared)
    most = max(map(len, places.values()))
    width = max(5.0, 0.8 + _BAR * len(places) * (most + 1))
    drawn = _lines_through(material, compared[0])
    of_bars = material.lines(set(compared).__contains__)
    if one_size(drawn):
        figure, ((bars,),) = panels(1, width=width)
        _draw_bars(bars, places, of_bars, width)
        finish(figure, [bars], compared, "no spread shown")
        return figure
    figure, grid = panels(2, width=(width + 5.0) / 2, gridspec_kw={"width_ratios": (width, 5.0)})
    bars, lines = grid[0]
    _draw_bars(bars, places, of_bars, width)
    for line in drawn:
        lines.plot(line.sizes, line.values("total_s_median"), **line_style(line))
    plain_log(lines, "y")
    lines.set_xlim(left=0)
    lines.set_xlabel(x_label(drawn))
    lines.set_ylabel("Total time (s)")
    finish(figure, (bars, lines), compared, "medians; spread not shown")
    return figure


def _compared(entries: Sequence[Entry]) -> list[Entry] | None:
    """Return the entries of the longest case timed on most devices, for all its strategies.

    The devices must include a CPU and a GPU.
    """
    by_work: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        work = tuple(entry.value(field) for field in _WORK)
        by_work.setdefault(work, []).append(entry)
    shared = [members for members in by_work.values() if len({_kind(e) for e in members}) > 1]
    return max(
        shared,
        key=lambda members: (len(_by_place(members)), members[0].case.max_new_tokens),
        default=None,
    )


def _kind(entry: Entry) -> str:
    return entry.case.device.split(":")[0]


def _by_place(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Return entries by device and hardware."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.case.device, entry.hardware), []).append(entry)
    return found


def _lines_through(material: Material, example: Entry) -> list[Line]:
    """Return the lines of all devices and strategies that match an entry except in a size."""

    def is_like(entry: Entry, fields: Sequence[str]) -> bool:
        return all(entry.value(field) == example.value(field) for field in fields)

    along = along_of([entry for entry in material.entries if is_like(entry, _KIND)])
    fields = [field for field in _WORK if field != SIZES[along].field]
    return material.lines(lambda entry: is_like(entry, fields), along, across_devices=True)


def _draw_bars(
    axes: Axes,
    places: dict[tuple[str, str], list[Entry]],
    lines: Sequence[Line],
    inches_wide: float,
) -> None:
    styles = bar_styles(lines)
    labels = {entry: line.label for line in lines for entry in line.entries}
    entries = [entry for members in places.values() for entry in members]
    slowest = max(entry.case.total_s_median or 0.0 for entry in entries)
    # One width for all, with a gap of one bar between the devices.
    width = 1 / (max(map(len, places.values())) + 1)
    for number, members in enumerate(places.values()):
        for rank, entry in enumerate(members):
            time = entry.case.total_s_median or 0.0
            place = number + (rank - (len(members) - 1) / 2) * width
            axes.bar(place, time, width * 0.95, **styles[labels[entry]])
            text = f"{seconds(time)}\n{significant(slowest / time)}x"
            axes.text(place, time, text, ha="center", va="bottom", fontsize=8)
    room = (inches_wide - 0.8) / len(places) * 0.95
    ticks = [f"{fold(drawable(d), room, 8)}\n{fold(drawable(h), room, 8)}" for d, h in places]
    axes.set_xticks(range(len(places)), ticks, fontsize=8)
    axes.margins(y=0.2)
    axes.grid(visible=False)
    axes.set_ylabel(f"Time of {entries[0].case.max_new_tokens} new tokens (s)")
    head = "Below the time: speedup over the slowest"
    axes.set_title(fold(head, inches_wide - 0.7, 9), fontsize=9)
