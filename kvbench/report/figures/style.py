"""The look of all charts: colors, markers, dashes, hatches and axes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.report.figures.labels import FONT
from kvbench.report.figures.lines import KINDS, SIZES, Entry, Line, entries_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "RC",
    "SAMPLED_BAR",
    "bar_styles",
    "chart_settings",
    "draw_theory",
    "few_samples",
    "level_style",
    "line_style",
    "plain_log",
    "point_style",
    "x_label",
]

# Okabe and Ito's colors: distinguishable by color-blind people, and, with the markers, in gray.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 2)),
    (0, (1, 1.5)),
    (0, (7, 2, 1, 2)),
    (0, (9, 3)),
    (0, (4, 1.5, 1, 1.5, 1, 1.5)),
    (0, (1, 3.5)),
)
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "OO")

SAMPLED_BAR: dict[str, Any] = {"edgecolor": "0.2", "linestyle": "--"}
"""The edge of a bar that is an estimate."""

RC: dict[Any, Any] = {
    "svg.hashsalt": "kvbench",  # The same bytes every time.
    "svg.fonttype": "path",
    "font.size": 10,
    "font.family": FONT,
    "text.parse_math": False,  # A dollar sign in a name does not start a formula.
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.8,
    "legend.handlelength": 5.0,  # Long enough to show the longest dash once as a whole.
}


@contextlib.contextmanager
def chart_settings(more: Mapping[str, object] = {}) -> Iterator[None]:
    """Draw with our settings and matplotlib's own, whatever a `matplotlibrc` says.

    Matplotlib reads one in the current folder before the user's. It could run LaTeX, and the same
    data would not give the same bytes.
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC | dict(more))
        yield


def x_label(lines: Sequence[Line]) -> str:
    """Return the label of the size along lines, plus the shared length if it is another size."""
    along = lines[0].along
    lengths = {entry.case.max_new_tokens for entry in entries_of(lines)}
    shared = along != "max_new_tokens" and len(lengths) == 1
    return SIZES[along].label + (f", {lengths.pop()} new tokens each" if shared else "")


def plain_log(axes: Axes, name: Literal["x", "y"], ticks: Sequence[float] | None = None) -> None:
    """Give a logarithmic axis plain numbers, without mathematical text.

    Call it after drawing everything. Without `ticks`, a short axis gets numbers closer together
    than powers of ten.
    """
    from matplotlib.ticker import AutoLocator, FuncFormatter, NullFormatter, NullLocator

    axes.set(**{f"{name}scale": "log"})
    # The limits may have been zero, which has no logarithm.
    axes.autoscale(axis=name)
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if name == "x" else axes.get_ylim())
    digits = "123456789" if high < 10 * low else "125" if high < 1000 * low else "1"
    if ticks is not None:
        axis.set_ticks(list(ticks))
        axis.set_minor_formatter(NullFormatter())
    elif high < 4 * low:
        axis.set_major_locator(AutoLocator())
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_minor_formatter(
            FuncFormatter(lambda value, place: f"{value:g}" if f"{value:e}"[0] in digits else "")
        )
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))


def line_style(line: Line) -> dict[str, Any]:
    """Return the color, marker, dash and label of a line."""
    return {
        "color": COLOURS[line.look.colour],
        "marker": _MARKERS[line.look.marker],
        "linestyle": _DASHES[line.look.dash],
        "markersize": 5,
        "label": line.label,
    }


def bar_styles(lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """Return the color, hatch and label of the bars for cases of lines, by label."""
    colours = {line.label: line.look.colour for line in lines}
    sampled = {line.label for line in lines if line.is_sampled}
    used: dict[int, int] = {}
    # Use a different hatch per color, as long as there are enough, for people who see no color.
    step = len(set(colours.values())) % KINDS or 1
    styles = {}
    for label, colour in colours.items():
        before = used.get(colour, 0)
        used[colour] = before + 1
        styles[label] = {
            "color": COLOURS[colour],
            "hatch": _HATCHES[(colour + before * step) % KINDS],
            "edgecolor": "white",
            "label": label,
            **(SAMPLED_BAR if label in sampled else {}),
        }
    return styles


def level_style(number: int) -> dict[str, Any]:
    """Return the style of the n-th gray line without markers across a panel."""
    return {"color": "0.35", "linewidth": 1, "linestyle": _DASHES[(2 + number) % KINDS]}


def point_style(number: int) -> dict[str, Any]:
    """A point without a line, the so many-th of its kind."""
    return {
        "color": COLOURS[number % KINDS],
        "marker": _MARKERS[(number + number // KINDS) % KINDS],
        "markersize": 7,
        "linestyle": "none",
    }


def draw_theory(axes: Axes, line: Line, field: str, factor: float = 1.0) -> bool:
    """Draw the theory of a line's values in thin short dashes; return whether there is any."""
    values = line.values(field, factor)
    known = not all(math.isnan(value) for value in values)
    if known:
        colour, dashes = COLOURS[line.look.colour], (0, (2, 2))
        axes.plot(line.sizes, values, color=colour, linestyle=dashes, linewidth=1, zorder=3)
    return known


def few_samples(entries: Iterable[Entry]) -> bool:
    """Return whether some case has too few samples for quartiles and intervals."""
    warm = (entry.case.samples - entry.case.cold_starts for entry in entries)
    return min(warm) < MIN_FOR_INTERVAL
