"""Lay out a figure: panels, and below them the legend and the caption."""

from __future__ import annotations

import functools
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvbench.analysis.generated import is_sampled
from kvbench.report.figures.labels import FONT, drawable
from kvbench.report.figures.lines import Entry, Line, entries_of
from kvbench.report.figures.style import x_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

__all__ = [
    "CAPTION",
    "TITLE",
    "Panels",
    "device_panels",
    "finish",
    "finish_with",
    "fold",
    "from_zero",
    "inches",
    "panels",
]

CAPTION, TITLE = "chart-caption", "chart-title"
"""The ids of these texts in an SVG. A page leaves both out, since it says them itself."""

_LEGEND_SIZE = 8
_CAPTION_SIZE = 7.5
_HANDLE = 0.9
"""Inches of a legend column besides its text."""

_FIRM_SPACE = "\N{NO-BREAK SPACE}"

_GAP = 0.08
"""Inches between the panels, the legend, the caption and the edges."""

_LINE = 1.5 / 72
"""Inches per line of text, for each point of its size."""


@dataclass(frozen=True)
class Panels:
    """A figure with one column of axes per device.

    Attributes:
        columns: for each device its axes from top to bottom, and its lines.
    """

    figure: Figure
    grid: Any
    columns: tuple[tuple[Sequence[Axes], list[Line]], ...]


def device_panels(
    lines: Sequence[Line], labels: Sequence[str], bottom: str | None = None, *, height: float = 4.0
) -> Panels:
    """Return axes for lines: one column per device, one row per y-axis label.

    The x axis is that of the lines, unless `bottom` says otherwise.
    """
    devices = list(dict.fromkeys(line.device for line in lines))
    figure, grid = panels(len(devices), len(labels), height=height, sharex="row")
    columns = []
    for number, device in enumerate(devices):
        here = [line for line in lines if line.device == device]
        column = grid[:, number]
        hardware = " / ".join(dict.fromkeys(entry.hardware for entry in entries_of(here)))
        column[0].set_title(fold(drawable(f"{device}: {hardware}"), 4.3, 10), fontsize=10)
        column[-1].set_xlabel(bottom or x_label(lines))
        for axes, label in zip(column, labels, strict=True):
            axes.set_ylabel(label)
        columns.append((column, here))
    return Panels(figure, grid, tuple(columns))


def from_zero(panels: Panels) -> None:
    """Start all axes at zero; call it after drawing everything."""
    from matplotlib.ticker import MaxNLocator

    for axes in panels.grid.flat:
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        # There is no half token or half sequence.
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))


def panels(
    columns: int, rows: int = 1, *, height: float = 4.0, width: float = 5.0, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure and its grid of axes, `[rows][columns]`, each of the given size in inches."""
    # Without pyplot: no global state, and no window ever opens.
    from matplotlib.figure import Figure

    size = (1.5 + width * columns, 0.2 + height * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def finish(figure: Figure, axes: Iterable[Axes], entries: Sequence[Entry], marks: str) -> None:
    """Add the legend of some axes below the panels, and a caption of what was measured and how.

    Args:
        figure: the drawn figure.
        axes: the axes whose labels go in the legend.
        entries: the drawn cases, for the caption.
        marks: the meaning of the marks.
    """
    if any(is_sampled(entry.case) for entry in entries):
        marks += "; dashed: sampled, estimated from single steps"
    # For a page, which says once what all its charts share.
    figure.set_label(drawable(marks))
    finish_with(figure, axes, drawable(_caption(entries, marks)))


def finish_with(figure: Figure, axes: Iterable[Axes], text: str) -> None:
    """Add the legend of some axes and a caption below the panels, and make room for them.

    Each label is in the legend once. The figure grows by the height of legend, caption and
    multi-line titles, and the panels keep their size.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    width, height = figure.get_size_inches()
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    text = fold(text, width - 2 * _GAP, _CAPTION_SIZE)
    left = _GAP / width
    caption = figure.supxlabel(
        text, fontsize=_CAPTION_SIZE, x=left, y=0, ha="left", va="bottom", color="0.3"
    )
    caption.set_gid(CAPTION)
    # Constrained layout knows nothing of what stands below the panels but how high it is.
    caption.set_in_layout(False)
    top = 2 * _GAP + caption.get_window_extent(renderer).height / figure.dpi
    legend, bottom = _legend(figure, axes), top
    if legend is not None:
        legend.set_in_layout(False)
        bottom += _GAP + legend.get_window_extent(renderer).height / figure.dpi
    total = height + bottom + _title_room(figure)
    figure.set_size_inches(width, total)
    caption.set_y(_GAP / total)
    if legend is not None:
        legend.set_bbox_to_anchor((left, top / total), transform=figure.transFigure)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, bottom / total, 1, 1 - bottom / total))


def inches(text: str, size: float) -> float:
    """Return an upper bound of the width of one line of text, for a size in points."""
    return math.fsum(_advance(character, size) for character in text)


def fold(text: str, width: float, size: float) -> str:
    """Return a text wrapped to this many inches."""
    whole = inches(text, size)
    if whole <= width:
        return text
    # Keep a number with its word: batch 8.
    text = re.sub(r" (?=\d+(,|$))", _FIRM_SPACE, text)
    # Letters differ in width: guess, then use fewer per line until all lines fit.
    characters = max(int(len(text) * width / whole) + 4, 5)
    while True:
        # Break at a hyphen only if a word does not fit on a line: many names contain hyphens.
        hyphens = max(map(len, text.split())) > characters
        lines = textwrap.wrap(text, characters, break_on_hyphens=hyphens)
        if characters == 5 or all(inches(line, size) <= width for line in lines):
            return "\n".join(lines).replace(_FIRM_SPACE, " ")
        characters -= 1


def _legend(figure: Figure, axes: Iterable[Axes]) -> Legend | None:
    from matplotlib.container import ErrorbarContainer

    entries: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            # An error bar would hide the marker.
            entries[label] = handle[0] if isinstance(handle, ErrorbarContainer) else handle
    if not entries:
        return None
    width = figure.get_figwidth() - 2 * _GAP
    # Use as many columns as fit, if that makes the legend lower.
    candidates = []
    for columns in range(1, min(len(entries), 6) + 1):
        room = width / columns - _HANDLE
        if columns == 1 or room > 1.4:
            labels = [fold(label, room, _LEGEND_SIZE) for label in entries]
            candidates.append((_height(labels, columns), columns, labels))
    _, columns, labels = min(candidates)
    return figure.legend(
        list(entries.values()),
        labels,
        loc="lower left",
        ncols=columns,
        fontsize=_LEGEND_SIZE,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.5,
    )


def _height(labels: Sequence[str], columns: int) -> int:
    """Return the lines of text in the tallest column; a legend is filled column by column."""
    rows, more = divmod(len(labels), columns)
    lines, place, highest = [label.count("\n") + 1 for label in labels], 0, 0
    for column in range(columns):
        count = rows + (column < more)
        highest = max(highest, sum(lines[place : place + count]))
        place += count
    return highest


def _title_room(figure: Figure) -> float:
    """Return the inches that titles need beyond their first line."""
    rows: dict[int, float] = {}
    for axes in figure.axes:
        more = axes.get_title().count("\n") * float(axes.title.get_fontsize()) * _LINE
        spec = axes.get_subplotspec()
        row = spec.rowspan.start if spec else 0
        rows[row] = max(rows.get(row, 0.0), more)
    return math.fsum(rows.values())


@functools.cache
def _advance(character: str, size: float) -> float:
    """Return the inches from one letter to the next."""
    from matplotlib.ft2font import LoadFlags

    font, widths = _font(), []
    # A PNG's letters start at whole pixels, 100 or 150 to the inch; an SVG's start anywhere.
    hinted, free = LoadFlags.FORCE_AUTOHINT, LoadFlags.NO_HINTING
    for dots, flags in ((100, hinted), (150, hinted), (100, free)):
        font.set_size(size, dots)
        # In 64ths of a pixel.
        widths.append(font.load_char(ord(character), flags=flags).horiAdvance / 64 / dots)
    return float(max(widths))


@functools.cache
def _font() -> Any:
    from matplotlib import font_manager

    return font_manager.get_font(font_manager.findfont(FONT))


def _caption(entries: Sequence[Entry], marks: str) -> str:
    def all_of(field: str) -> str:
        values = (entry.value(field) for entry in entries)
        return "/".join(dict.fromkeys("unknown" if v is None else str(v) for v in values))

    hardware = dict.fromkeys(f"{entry.case.device} ({entry.hardware})" for entry in entries)
    counts = sorted({entry.case.samples for entry in entries})
    samples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"{all_of('model')} ({all_of('weights')} weights), {all_of('dtype')}, "
        f"{'; '.join(hardware)}, {all_of('attention_used')} attention, batch "
        f"{all_of('batch_size')}, prompt of {_counted(all_of('prompt_tokens'), 'token')}. "
        f"Medians of {_counted(samples, 'sample')}; {marks}. "
        f"{'; '.join(dict.fromkeys(_software(entry) for entry in entries))}"
    )


def _counted(number: str, word: str) -> str:
    return f"{number} {word}" if number == "1" else f"{number} {word}s"


def _software(entry: Entry) -> str:
    versions = entry.info.environment.versions
    names = ("torch", "transformers", "kvbench")
    software = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    return f"{software}, {entry.info.started_at[:10]}"
