"""The charts: one function each in one registry, drawn from a summary."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.analysis.summary import CaseSummary
from kvbench.records.run import RunInfo
from kvbench.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CHARTS", "Chart", "write_charts"]

# Okabe and Ito's colours: told apart by colour-blind people, and, with the markers, in grey.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))

_RC: dict[Any, Any] = {
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

_LINE_FIELDS = ("model", "weights", "dtype", "attention", "batch_size", "prompt")


@dataclass(frozen=True)
class Chart:
    """A chart: its file name, its title, and what draws it."""

    name: str
    title: str
    draw: Callable[[Sequence[CaseSummary], RunInfo], Figure | None]


CHARTS: dict[str, Chart] = {}


def _chart(
    name: str, title: str
) -> Callable[[Callable[..., Figure | None]], Callable[..., Figure | None]]:
    def register(draw: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
        @functools.wraps(draw)
        def drawn(cases: Sequence[CaseSummary], info: RunInfo) -> Figure | None:
            import matplotlib as mpl

            with mpl.rc_context(_RC):
                return draw(cases, info)

        CHARTS[name] = Chart(name, title, drawn)
        return drawn

    return register


def write_charts(
    cases: Sequence[CaseSummary],
    info: RunInfo,
    folder: Path,
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Draw each chart whose data exist into `folder`. The same data give the same bytes."""
    import matplotlib as mpl

    paths = []
    for chart in CHARTS.values():
        figure = chart.draw(cases, info)
        if figure is None:
            continue
        folder.mkdir(exist_ok=True)
        for kind in formats:
            path = folder / f"{chart.name}.{kind}"
            # No date and no version of the library, which would change the bytes.
            metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            with mpl.rc_context(_RC):
                figure.savefig(path, format=kind, dpi=150, metadata=metadata)
            paths.append(path)
    return paths


@_chart("total_time", "Total time")
def total_time(cases: Sequence[CaseSummary], info: RunInfo) -> Figure | None:
    """Seconds of a whole generation against new tokens, both arms, a panel per device."""
    return _panels(cases, info, "Time of the whole generation (s)", scale=lambda case: 1.0)


@_chart("time_per_token", "Time per token")
def time_per_token(cases: Sequence[CaseSummary], info: RunInfo) -> Figure | None:
    """Milliseconds per new token, total time over new tokens, both arms, a panel per device."""
    return _panels(
        cases, info, "Time per new token (ms)", scale=lambda case: 1000 / case.max_new_tokens
    )


def _panels(
    cases: Sequence[CaseSummary], info: RunInfo, label: str, scale: Callable[[CaseSummary], float]
) -> Figure | None:
    from matplotlib.figure import Figure

    timed = [case for case in cases if case.total_s_median is not None]
    if not timed:
        return None
    devices = list(dict.fromkeys(case.device for case in timed))
    # No pyplot: no global state, and no window is ever opened.
    figure = Figure(figsize=(1.5 + 5.0 * len(devices), 5.0), layout="constrained")
    grid = figure.subplots(1, len(devices), squeeze=False, sharex=True)
    for axes, device in zip(grid[0], devices, strict=True):
        _draw_lines(axes, [case for case in timed if case.device == device], timed, scale)
        title = _drawable(f"{device}: {info.environment.hardware(device)}")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("New tokens per sequence")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    _draw_legend(figure, grid[0])
    # About 15 characters of this size to the inch.
    text = _drawable(_caption(timed, info))
    caption = "\n".join(textwrap.wrap(text, int(15 * figure.get_figwidth())))
    figure.supxlabel(caption, fontsize=7.5, x=0.01, ha="left", color="0.3")
    return figure


def _draw_lines(
    axes: Axes,
    cases: Sequence[CaseSummary],
    everything: Sequence[CaseSummary],
    scale: Callable[[CaseSummary], float],
) -> None:
    few = _few(everything)
    caches = list(dict.fromkeys(case.cache for case in everything))
    lines = list(dict.fromkeys(_line(case) for case in everything))
    ordered = sorted(
        cases,
        key=lambda case: (lines.index(_line(case)), caches.index(case.cache), case.max_new_tokens),
    )
    for (line, cache), members in groupby(ordered, key=lambda case: (_line(case), case.cache)):
        points = list(members)
        values = [(case.total_s_median or 0.0) * scale(case) for case in points]
        ends = [[end * scale(case) for end in _spread(case, few)] for case in points]
        errors = [
            [max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)],
            [max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)],
        ]
        style = caches.index(cache)
        axes.errorbar(
            [case.max_new_tokens for case in points],
            values,
            yerr=errors,
            capsize=3,
            color=_COLOURS[style % len(_COLOURS)],
            marker=_MARKERS[style % len(_MARKERS)],
            linestyle=_DASHES[lines.index(line) % len(_DASHES)],
            markersize=5,
            label=_line_label(points[0], everything),
        )


def _draw_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One entry per line, wherever it is drawn; beside the panels if there are many."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    shown = list(entries.values()), list(entries)
    if len(entries) <= 8:
        panels[0].legend(*shown, fontsize=8, frameon=False)
    else:
        figure.legend(*shown, loc="outside right upper", fontsize=7, frameon=False)


def _drawable(text: str) -> str:
    """The text with `?` for what the font has no glyph for, such as Chinese."""
    from matplotlib import font_manager

    glyphs = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in glyphs else "?" for c in printable(text))


def _spread(case: CaseSummary, few: bool) -> tuple[float, float]:
    """Quartiles; smallest and largest in a chart that has too few samples for quartiles."""
    middle = case.total_s_median or 0.0
    low = case.total_s_min if few else case.total_s_q1
    high = case.total_s_max if few else case.total_s_q3
    return (middle if low is None else low), (middle if high is None else high)


def _few(cases: Sequence[CaseSummary]) -> bool:
    return min(case.samples for case in cases) < MIN_FOR_INTERVAL


def _line(case: CaseSummary) -> tuple[object, ...]:
    return tuple(getattr(case, name) for name in _LINE_FIELDS)


def _line_label(case: CaseSummary, everything: Sequence[CaseSummary]) -> str:
    """The strategy, and of the rest only what differs between the lines."""
    names = {"off": "cache off", "dynamic": "cache on (dynamic)"}
    parts = [names.get(case.cache, f"cache {case.cache}")]
    for field in _LINE_FIELDS:
        if len({getattr(other, field) for other in everything}) > 1:
            value = str(getattr(case, field))
            parts.append(f"batch {value}" if field == "batch_size" else value[:30])
    return _drawable(", ".join(parts))


def _caption(cases: Sequence[CaseSummary], info: RunInfo) -> str:
    def all_of(field: str) -> str:
        return "/".join(dict.fromkeys(str(getattr(case, field)) for case in cases))

    versions = info.environment.versions
    software = ", ".join(
        f"{name} {versions[name]}"
        for name in ("torch", "transformers", "kvbench")
        if name in versions
    )
    counts = sorted({case.samples for case in cases})
    samples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    bars = "smallest to largest" if _few(cases) else "quartiles"
    prompt = all_of("prompt_tokens")
    return (
        f"{all_of('model')} ({all_of('weights')} weights), {all_of('dtype')}, "
        f"{all_of('attention_used')} attention, batch {all_of('batch_size')}, "
        f"prompt of {prompt} tokens. Points: medians of {samples} samples; bars: {bars}. "
        f"{software}. {info.started_at[:10]}"
    )
