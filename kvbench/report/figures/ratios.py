"""Ratios of a comparison with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.analysis.compare import Comparison
from kvbench.analysis.metrics import METRICS
from kvbench.report.figures.labels import distinct, drawable
from kvbench.report.figures.layout import fold, inches
from kvbench.report.figures.style import COLOURS, chart_settings, plain_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ratio_chart"]

_MARKS = {
    "faster": ("v", COLOURS[1]),
    "slower": ("^", COLOURS[0]),
    "less": ("v", COLOURS[1]),
    "more": ("^", COLOURS[0]),
    "same": ("s", COLOURS[2]),
}
_OTHER = ("o", "0.25")
_SIGNS = {"v": "▼", "^": "▲", "s": "■", "o": "●"}
_MOST_ROWS = 60
_WIDTH = 5.0
"""Inches of the panel."""

_LABEL_WIDTH = 3.5
"""Inches per line of the labels next to it."""


def ratio_chart(rows: Sequence[Comparison], labels: Sequence[str], threshold: float) -> Figure:
    """Draw one line per case: the ratio, B over A, its interval, and the threshold as a band.

    With more than 60 cases, only those farthest from 1 are drawn.
    """
    from matplotlib.figure import Figure

    order = sorted(range(len(rows)), key=lambda i: -max(rows[i].ratio, 1 / rows[i].ratio))
    drawn = sorted(order[:_MOST_ROWS], reverse=True)
    names = distinct([drawable(label) for label in labels], "row", length=200)
    folded = [fold(names[i], _LABEL_WIDTH, 8) for i in drawn]
    head, metric = _head(rows), METRICS[rows[0].metric]
    with chart_settings():
        texts = [line for name in folded for line in name.split("\n")]
        width = 0.6 + _WIDTH + max(inches(text, 8) for text in texts)
        row_height = 0.14 + 0.14 * (1 + max(name.count("\n") for name in folded))
        height = 1.5 + row_height * len(drawn) + 0.19 * head.count("\n")
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(1 / (1 + threshold), 1 + threshold, color="0.9", zorder=0)
        axes.axvline(1, color="0.35", linewidth=1)
        for place, index in enumerate(drawn):
            row = rows[index]
            marker, colour = _MARKS.get(row.verdict or "", _OTHER)
            low = row.ratio if row.ratio_ci95_low is None else row.ratio_ci95_low
            high = row.ratio if row.ratio_ci95_high is None else row.ratio_ci95_high
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
            axes.plot([row.ratio], [place], marker=marker, color=colour, markersize=6)
        axes.set_yticks(range(len(drawn)), folded, fontsize=8)
        plain_log(axes, "x")
        axes.set_xlabel(
            f"{metric.label}, B / A; lines: 95 % CI\n"
            + _key([rows[i].verdict for i in drawn], threshold),
            fontsize=9,
        )
        axes.set_title(head, fontsize=9)
    return figure


def _head(rows: Sequence[Comparison]) -> str:
    sides = dict.fromkeys(f"A: {row.a}, B: {row.b}" for row in rows)
    return "\n".join(fold(drawable(side), _WIDTH, 9) for side in sides)


def _key(verdicts: Sequence[str | None], threshold: float) -> str:
    """Return the meaning of the marks that are drawn."""
    found = [verdict for verdict in (*_MARKS, "unclear") if verdict in verdicts]
    signs = (f"{_SIGNS[_MARKS.get(verdict, _OTHER)[0]]} {verdict}" for verdict in found)
    return "; ".join((f"grey: less than {100 * threshold:.3g} % either way", *signs))
