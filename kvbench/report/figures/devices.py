"""CPU against GPU: bars with their ratio, and the lines together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvbench.report.figures.material import Entry, Line, Material
from kvbench.report.figures.style import (
    add_caption,
    drawable,
    legend,
    line_style,
    panels,
    plain_log,
)
from kvbench.report.units import seconds, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["devices"]

_HATCHES = ("", "//", "..", "xx")
_DASHES = ("-", "--", ":", "-.")


def devices(material: Material) -> Figure | None:
    """Time on each kind of device at the longest length that all have, and against length."""
    names = list(dict.fromkeys(_place(entry) for entry in material.entries))
    if len({name.split(":")[0] for name, _ in names}) < 2:
        return None
    common = _longest_common(material.entries, names)
    if common is None:
        return None
    figure, grid = panels(2)
    bars, lines = grid[0]
    _draw_bars(bars, common, names)
    for line in _alike(material, common[0]):
        place = names.index(_place(line.entries[0]))
        style = line_style(line) | {"linestyle": _DASHES[place % len(_DASHES)]}
        style["label"] = drawable(f"{line.device}, {style['label']}")
        lines.plot(line.sizes("max_new_tokens"), line.values("total_s_median"), **style)
    plain_log(lines, "y")
    lines.set_xlabel("New tokens per sequence")
    lines.set_ylabel("Time of the whole generation (s)")
    legend(figure, [lines])
    add_caption(figure, common, "no spread shown")
    return figure


def _place(entry: Entry) -> tuple[str, str]:
    return entry.case.device, entry.hardware


def _work(entry: Entry) -> tuple[object, ...]:
    case = entry.case
    return (
        case.model,
        case.weights,
        case.dtype,
        case.attention,
        case.batch_size,
        case.prompt,
        case.max_new_tokens,
    )


def _longest_common(entries: tuple[Entry, ...], names: list[tuple[str, str]]) -> list[Entry] | None:
    """The entries of the longest case that was timed on all devices, all strategies of it."""
    by_work: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        by_work.setdefault(_work(entry), []).append(entry)
    on_all = [m for m in by_work.values() if {_place(e) for e in m} == set(names)]
    return max(on_all, key=lambda m: m[0].case.max_new_tokens, default=None)


def _alike(material: Material, example: Entry) -> list[Line]:
    def without_length(entry: Entry) -> tuple[object, ...]:
        return _work(entry)[:-1]

    lines = material.lines("max_new_tokens")
    return [ln for ln in lines if without_length(ln.entries[0]) == without_length(example)]


def _draw_bars(axes: Axes, entries: list[Entry], names: list[tuple[str, str]]) -> None:
    caches = list(dict.fromkeys(entry.case.cache for entry in entries))
    width = 0.8 / len(caches)
    slowest = max(entry.case.total_s_median or 0.0 for entry in entries)
    colours = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
    for entry in entries:
        number, time = caches.index(entry.case.cache), entry.case.total_s_median or 0.0
        place = names.index(_place(entry)) + (number - (len(caches) - 1) / 2) * width
        axes.bar(
            place,
            time,
            width * 0.95,
            color=colours[number % len(colours)],
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
            label=drawable(f"cache {entry.case.cache}"),
        )
        text = f"{seconds(time)}\n{significant(slowest / time)}x"
        axes.text(place, time, text, ha="center", va="bottom", fontsize=8)
    ticks = [f"{drawable(device)}\n{drawable(hardware)[:40]}" for device, hardware in names]
    axes.set_xticks(range(len(names)), ticks, fontsize=8)
    axes.margins(y=0.2)
    axes.grid(visible=False)
    axes.set_ylabel(f"Time of {entries[0].case.max_new_tokens} new tokens (s)")
    axes.set_title("Below the time: how many times as fast as the slowest", fontsize=9)
