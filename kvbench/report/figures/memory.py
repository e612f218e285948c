"""Memory cost of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbench.analysis.summary import CaseSummary
from kvbench.caches import BASELINE
from kvbench.report.figures.bars import Measure, bar_panels, one_size
from kvbench.report.figures.labels import distinct
from kvbench.report.figures.layout import device_panels, finish, from_zero
from kvbench.report.figures.lines import Entry, Line, entries_of, label_of
from kvbench.report.figures.material import Material
from kvbench.report.figures.style import draw_theory, level_style, line_style
from kvbench.report.units import MIB, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["memory"]


def memory(material: Material) -> Figure | None:
    """Draw peak memory with the weights as a base line above, exact cache bytes below."""
    lines = material.lines(lambda entry: _peak(entry.case) is not None)
    if not lines:
        return None
    labels = ("Peak (MiB)", "Keys and values (MiB)")
    weights = _weights(material, entries_of(lines))
    if one_size(lines):
        return _bars(lines, labels, weights)
    panels = device_panels(lines, labels, height=3.2)
    expected = False
    for (peaks, caches), here in panels.columns:
        for line in here:
            points = [(_peak(entry.case) or 0) / MIB for entry in line.entries]
            peaks.plot(line.sizes, points, **line_style(line))
            if line.cache != BASELINE:
                held = line.values("kv_cache_bytes", 1 / MIB)
                caches.plot(line.sizes, held, **line_style(line))
                expected = draw_theory(caches, line, "expected_cache_bytes", 1 / MIB) or expected
        drawn = {entry.case.weights_bytes for entry in entries_of(here)}
        for number, (size, label) in enumerate(weights.items()):
            if size in drawn:
                peaks.axhline(size / MIB, label=label, **level_style(number))
    from_zero(panels)
    finish(panels.figure, panels.grid[0], entries_of(lines), _marks(expected))
    return panels.figure


def _bars(lines: Sequence[Line], labels: tuple[str, str], weights: dict[int, str]) -> Figure:
    """Draw the bars of lines of one size."""
    peak = Measure(labels[0], lambda entry: _scaled(_peak(entry.case)), significant)
    held = Measure(
        labels[1],
        lambda entry: _scaled(entry.case.kv_cache_bytes),
        significant,
        theory=lambda entry: _expected(entry.case),
    )
    shown = bar_panels(lines, [peak, held])
    for (peaks, _), here in shown.columns:
        drawn = {entry.case.weights_bytes for entry in entries_of(here)}
        for number, (size, label) in enumerate(weights.items()):
            if size in drawn:
                peaks.axvline(size / MIB, label=label, **level_style(number))
    entries = entries_of(lines)
    expected = any(_expected(entry.case) is not None for entry in entries)
    finish(shown.figure, shown.grid[0], entries, _marks(expected))
    return shown.figure


def _marks(expected: bool) -> str:
    method = "peak: resident set on a CPU, torch's allocated memory on a GPU"
    return method + "; short dashes: cache size from the cost model" * expected


def _scaled(value: int | None) -> float | None:
    return None if value is None else value / MIB


def _expected(case: CaseSummary) -> float | None:
    return None if case.cache == BASELINE else _scaled(case.expected_cache_bytes)


def _peak(case: CaseSummary) -> int | None:
    """Return the peak bytes of tensors: on a GPU, only weights and cache."""
    return case.memory_allocated_bytes or case.memory_peak_bytes


def _weights(material: Material, entries: Sequence[Entry]) -> dict[int, str]:
    """Return the sizes of the weights, with the model's name if there are several."""
    owners: dict[int, dict[str, None]] = {}
    for entry in entries:
        if entry.case.weights_bytes is not None:
            name = label_of(entry, ("model", "dtype"), material.texts)
            owners.setdefault(entry.case.weights_bytes, {})[name] = None
    if len(owners) == 1:
        return dict.fromkeys(owners, "weights")
    labels = [f"weights of {' / '.join(names)}" for names in owners.values()]
    return dict(zip(owners, distinct(labels, "weights", length=1000), strict=True))
