"""Ratios of a comparison with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.analysis.compare import Comparison
from kvbench.report.figures.style import RC, drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ratio_chart"]

_MARKS = {"faster": ("v", "#0072B2"), "slower": ("^", "#D55E00"), "same": ("s", "#009E73")}
_MOST_ROWS = 60


def ratio_chart(rows: Sequence[Comparison], labels: Sequence[str], threshold: float) -> Figure:
    """One line a case: the ratio of the medians, B over A, its interval, the threshold as a band.

    Of more than 60 cases those furthest from 1 are drawn.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    order = sorted(range(len(rows)), key=lambda i: -max(rows[i].ratio, 1 / rows[i].ratio))
    drawn = sorted(order[:_MOST_ROWS], reverse=True)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(8, 1.4 + 0.28 * len(drawn)), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(1 / (1 + threshold), 1 + threshold, color="0.9", zorder=0)
        axes.axvline(1, color="0.35", linewidth=1)
        for place, index in enumerate(drawn):
            row = rows[index]
            marker, colour = _MARKS.get(row.verdict or "", ("o", "0.25"))
            low = row.ratio if row.ratio_ci95_low is None else row.ratio_ci95_low
            high = row.ratio if row.ratio_ci95_high is None else row.ratio_ci95_high
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
            axes.plot([row.ratio], [place], marker=marker, color=colour, markersize=6)
        axes.set_yticks(range(len(drawn)), [drawable(labels[i])[:70] for i in drawn], fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.xaxis.set_minor_formatter(
            FuncFormatter(lambda value, place: f"{value:g}") if _narrow(rows) else NullFormatter()
        )
        axes.set_xlabel("Time of B over time of A; lines: 95 % bootstrap interval")
        sides = "; ".join(dict.fromkeys(f"A: {row.a}, B: {row.b}" for row in rows))
        axes.set_title(drawable(sides)[:90], fontsize=9)
    return figure


def _narrow(rows: Sequence[Comparison]) -> bool:
    """Whether all ratios lie within a decade, where a logarithmic axis has hardly a major tick."""
    ratios = [row.ratio for row in rows]
    return max(ratios) / min(ratios) < 10
