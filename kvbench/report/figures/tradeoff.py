"""The trade-off: what each strategy keeps, against the time that a token takes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.analysis.generated import is_sampled
from kvbench.analysis.recommend import kept_bytes, largest
from kvbench.report.figures.labels import drawable
from kvbench.report.figures.layout import finish, fold, panels
from kvbench.report.figures.lines import Entry
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import point_style
from kvbench.report.units import MIB, times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto", "tradeoff"]


def tradeoff(material: Material) -> Figure | None:
    """One point a strategy, for the largest case of each model; what nothing beats is ringed."""
    groups = [
        entries
        for cases in material.summaries.values()
        for group in largest(cases)
        if len(entries := _entries(material, {case.case_id for case in group})) > 1
    ]
    if not groups:
        return None
    figure, grid = panels(len(groups))
    names = list(dict.fromkeys(entry.case.cache for group in groups for entry in group))
    for axes, group in zip(grid[0], groups, strict=True):
        _draw(axes, group, names)
    entries = [entry for group in groups for entry in group]
    finish(figure, grid[0], entries, "ringed: no strategy is both smaller and faster")
    return figure


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return of each point whether none is as small in both, and smaller in one."""
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def _entries(material: Material, ids: set[str]) -> list[Entry]:
    found = [entry for entry in material.entries if entry.case.case_id in ids]
    run = found[0].run if found else None
    return [e for e in found if e.run == run and kept_bytes(e.case) is not None]


def _point(entry: Entry) -> tuple[float, float]:
    case = entry.case
    kept = kept_bytes(case) or 0
    return kept / MIB, 1000 * (case.total_s_median or 0.0) / case.max_new_tokens


def _draw(axes: Axes, group: Sequence[Entry], names: Sequence[str]) -> None:
    points = [_point(entry) for entry in group]
    best = pareto(points)
    front = sorted(point for point, on in zip(points, best, strict=True) if on)
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=1, linestyle="--", zorder=1)
    for entry, (kept, time), on in zip(group, points, best, strict=True):
        style = point_style(names.index(entry.case.cache))
        axes.plot([kept], [time], label=drawable(_label(entry)), **style)
        if on:
            axes.plot(
                [kept], [time], "o", markersize=15, markerfacecolor="none", markeredgecolor="0.35"
            )
    case = group[0].case
    title = (
        f"{case.model}, {case.device}, batch {case.batch_size}, {case.max_new_tokens} new tokens"
    )
    # Points have no dashes.
    title += ", sampled" * is_sampled(case)
    axes.set_title(fold(drawable(title), 4.3, 10), fontsize=10)
    axes.set_xlabel("Cache at its end, as allocated (MiB)")
    axes.set_ylabel("Time for each new token of a sequence (ms)")
    axes.margins(0.12)
    axes.set_ylim(bottom=0)


def _label(entry: Entry) -> str:
    ratio = entry.case.perplexity_ratio
    return entry.case.cache + ("" if ratio is None else f" (perplexity {times(ratio)})")
