"""Per-token latency against position: it rises without a cache, and stays flat with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvbench.report.figures.layout import device_panels, finish, from_zero
from kvbench.report.figures.lines import FIELDS, Entry, Line
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["token_latency"]


def token_latency(material: Material) -> Figure | None:
    """Draw milliseconds since the previous token against position, for each line's longest case.

    Of a conversation, the last turn is drawn.
    """
    last = {_conversation(entry): entry for entry in sorted(material.entries, key=_turn)}
    lines = material.lines(
        lambda entry: entry.case.max_new_tokens > 1 and last[_conversation(entry)] is entry,
        "max_new_tokens",
    )
    found = material.latencies(line.entries[-1] for line in lines)
    drawn = [line for line in lines if _key(line) in found]
    if not drawn:
        return None
    labels = ("Time since the previous token (ms)",)
    panels = device_panels(drawn, labels, "Position of the new token")
    for (axes,), here in panels.columns:
        for line in here:
            latency = found[_key(line)]
            # One marker per token would hide the line.
            style = line_style(line) | {"markevery": max(1, len(latency.positions) // 8)}
            axes.plot(latency.positions, latency.median * 1000, linewidth=1.2, **style)
            low, high = latency.low * 1000, latency.high * 1000
            band = {"color": style["color"], "alpha": 0.25, "linewidth": 0}
            axes.fill_between(latency.positions, low, high, **band)
    from_zero(panels)
    longest = [line.entries[-1] for line in drawn]
    finish(panels.figure, panels.grid[0], longest, "bands: quartiles over the samples")
    return panels.figure


def _turn(entry: Entry) -> int:
    return entry.case.turn


def _conversation(entry: Entry) -> tuple[object, ...]:
    """Return what the turns of a conversation share; of a single prompt, what makes it a case."""
    return tuple(entry.value(field) for field in FIELDS if field != "turn")


def _key(line: Line) -> tuple[str, str]:
    longest = line.entries[-1]
    return longest.run, longest.case.case_id
