"""The results of a run as benchmark trackers read them; see `kvbench.report.exporters`."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kvbench.analysis.cases import describe
from kvbench.analysis.expected import summarize_run
from kvbench.analysis.summary import CaseSummary
from kvbench.errors import UserError, check_choice
from kvbench.plan.axes import AXES
from kvbench.records.run import Run
from kvbench.report.exporters import EXPORTERS

__all__ = ["bencher", "export", "github_action_benchmark", "not_exported"]


@dataclass(frozen=True)
class _Figure:
    """A figure of a case: its fields in CaseSummary, and how trackers name it."""

    what: str
    field: str
    low: str | None
    high: str | None
    unit: str
    measure: str
    scale: float
    """Units of the measure per unit of the field: Bencher's latency is in nanoseconds."""


_FIGURES = (
    _Figure("time", "total_s_median", "total_s_min", "total_s_max", "s", "latency", 1e9),
    _Figure("time to first token", "ttft_s_median", None, None, "s", "time-to-first-token", 1e9),
    _Figure("memory", "memory_over_base_bytes", None, None, "bytes", "memory", 1),
    _Figure("cache", "kv_cache_bytes", None, None, "bytes", "cache-size", 1),
    _Figure(
        "energy per token",
        "energy_j_per_token",
        "energy_j_per_token_min",
        "energy_j_per_token_max",
        "J",
        "energy-per-token",
        1,
    ),
)
"""What is exported: all of it is better when smaller."""


def export(run: Run, to: str) -> str:
    """Return the measured cases of a run as a document for a tracker.

    Raises:
        UserError: there is no such exporter, or no case has a time.
    """
    check_choice("--to", "tracker", to, EXPORTERS)
    cases = [case for case in summarize_run(run) if _measured(case)]
    if not cases:
        raise UserError(
            f"{run.info.name}: nothing to export: no case was measured.",
            kind="nothing_measured",
        )
    document = pkgutil.resolve_name(EXPORTERS[to].body)(cases)
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def not_exported(run: Run) -> list[str]:
    """Return the names of the cases without a time: trackers have no place for a failure."""
    return [_name(case) for case in summarize_run(run) if not _measured(case)]


def _measured(case: CaseSummary) -> bool:
    return case.total_s_median is not None


def _name(case: CaseSummary) -> str:
    """Return the name under which a tracker follows a case over time.

    It depends on the case alone, so that another case in the plan does not rename it.
    """
    seldom = (axis for axis in AXES.values() if axis.seldom)
    told = [a.name for a in seldom if getattr(case, a.name) != a.legacy]
    # A name for each case: without its middle, a long prompt may be the same as another one.
    return describe(case, told, whole=True)


def _figures(case: CaseSummary) -> Iterator[tuple[_Figure, float, float | None, float | None]]:
    """Return the figures that are known, with the smallest and largest sample where known."""
    for figure in _FIGURES:
        value = getattr(case, figure.field)
        # A tracker divides by the last value: no cache has no size.
        if value:
            low = None if figure.low is None else getattr(case, figure.low)
            high = None if figure.high is None else getattr(case, figure.high)
            yield figure, value, low, high


def github_action_benchmark(cases: Iterable[CaseSummary]) -> list[dict[str, Any]]:
    """Return the entries of the tool `customSmallerIsBetter`."""
    return [
        {"name": f"{_name(case)}: {figure.what}", "unit": figure.unit, "value": value}
        | ({} if low is None or high is None else {"range": f"{low:.6g} to {high:.6g}"})
        | {"extra": f"{case.samples} sample{'s' * (case.samples != 1)}"}
        for case in cases
        for figure, value, low, high in _figures(case)
    ]


def bencher(cases: Iterable[CaseSummary]) -> dict[str, dict[str, dict[str, float]]]:
    """Return Bencher Metric Format: the measures of each benchmark."""
    return {
        _name(case): {
            figure.measure: {
                key: figure.scale * end
                for key, end in (("value", value), ("lower_value", low), ("upper_value", high))
                if end is not None
            }
            for figure, value, low, high in _figures(case)
        }
        for case in cases
    }
