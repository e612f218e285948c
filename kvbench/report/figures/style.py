"""How all charts look: colours, captions, panels; text that the font can draw."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.report.figures.material import Entry, Line
from kvbench.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "RC",
    "Panels",
    "add_caption",
    "device_panels",
    "drawable",
    "few_samples",
    "from_zero",
    "legend",
    "line_style",
    "panels",
    "plain_log",
]

# Okabe and Ito's colours: told apart by colour-blind people, and, with the markers, in grey.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))

RC: dict[Any, Any] = {
    "svg.hashsalt": "kvbench",  # The same bytes each time.
    "svg.fonttype": "path",
    "font.size": 10,
    "font.family": "DejaVu Sans",  # Comes with matplotlib, so that it is the same everywhere.
    "text.parse_math": False,  # A dollar sign in a name begins no formula.
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Panels:
    """A figure with a column of axes for each device.

    Attributes:
        columns: for each device its axes from top to bottom, and its lines.
    """

    figure: Figure
    grid: Any
    columns: tuple[tuple[Sequence[Axes], list[Line]], ...]


def device_panels(
    lines: Sequence[Line], labels: Sequence[str], bottom: str, *, height: float = 4.2
) -> Panels:
    """Axes for lines, both from zero: a column a device, a row for each label of a y axis."""
    devices = list(dict.fromkeys(line.device for line in lines))
    figure, grid = panels(len(devices), len(labels), height=height, sharex="row")
    columns = []
    for number, device in enumerate(devices):
        here = [line for line in lines if line.device == device]
        column = grid[:, number]
        column[0].set_title(drawable(f"{device}: {here[0].entries[0].hardware}"), fontsize=10)
        column[-1].set_xlabel(bottom)
        for axes, label in zip(column, labels, strict=True):
            axes.set_ylabel(label)
        columns.append((column, here))
    return Panels(figure, grid, tuple(columns))


def from_zero(panels: Panels) -> None:
    """Begin all axes at zero, once everything is drawn."""
    for axes in panels.grid.flat:
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)


def plain_log(axes: Axes, name: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers: mathematical text is switched off."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def panels(
    columns: int, rows: int = 1, *, height: float = 4.2, **options: Any
) -> tuple[Figure, Any]:
    """A figure and its grid of axes, `[rows][columns]`."""
    # No pyplot: no global state, and no window is ever opened.
    from matplotlib.figure import Figure

    size = (1.5 + 5.0 * columns, 0.8 + height * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line_style(line: Line, style: int | None = None) -> dict[str, Any]:
    """Colour and marker by strategy, or by the number `style`; dash by the rest."""
    number = line.style if style is None else style
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[line.dash % len(_DASHES)],
        "markersize": 5,
        "label": drawable(line.label),
    }


def legend(figure: Figure, grid: Iterable[Axes]) -> None:
    """One entry per line, wherever it is drawn; beside the panels if there are many."""
    shown = list(grid)
    entries: dict[str, Any] = {}
    for axes in shown:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    drawn = list(entries.values()), list(entries)
    if len(entries) <= 7:
        shown[0].legend(*drawn, fontsize=8, frameon=False)
    else:
        figure.legend(*drawn, loc="outside right upper", fontsize=7, frameon=False)


def add_caption(figure: Figure, entries: Sequence[Entry], marks: str) -> None:
    """What was measured, on what and with what; `marks` says what the marks mean."""
    # About 15 characters of this size to the inch.
    width = int(15 * figure.get_figwidth())
    text = drawable(_caption(entries, marks))
    figure.supxlabel(
        "\n".join(textwrap.wrap(text, width)), fontsize=7.5, x=0.01, ha="left", color="0.3"
    )


def few_samples(entries: Iterable[Entry]) -> bool:
    """Whether some case has too few samples for quartiles and intervals."""
    return min(entry.case.samples for entry in entries) < MIN_FOR_INTERVAL


def drawable(text: str) -> str:
    """The text with `?` for what the font has no glyph for, such as Chinese."""
    from matplotlib import font_manager

    glyphs = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in glyphs else "?" for c in printable(text))


def _caption(entries: Sequence[Entry], marks: str) -> str:
    def all_of(field: str) -> str:
        return "/".join(dict.fromkeys(str(entry.value(field)) for entry in entries))

    hardware = dict.fromkeys(f"{entry.case.device} ({entry.hardware})" for entry in entries)
    counts = sorted({entry.case.samples for entry in entries})
    samples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"{all_of('model')} ({all_of('weights')} weights), {all_of('dtype')}, "
        f"{'; '.join(hardware)}, {all_of('attention_used')} attention, batch "
        f"{all_of('batch_size')}, prompt of {all_of('prompt_tokens')} tokens. Medians of "
        f"{samples} samples; {marks}. "
        f"{'; '.join(dict.fromkeys(_software(entry) for entry in entries))}"
    )


def _software(entry: Entry) -> str:
    versions = entry.info.environment.versions
    names = ("torch", "transformers", "kvbench")
    software = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    return f"{software}, {entry.info.started_at[:10]}"
