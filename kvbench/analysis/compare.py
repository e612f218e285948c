"""Compare runs, or two values of one axis within a run: ratios, intervals, verdicts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from kvbench.analysis.cases import ReadingOrder, describe, varied
from kvbench.analysis.cold import cold_rows
from kvbench.analysis.metrics import METRICS, Metric
from kvbench.analysis.statistics import (
    PAIRED_LEVEL,
    geometric_mean,
    holm,
    least_rounds,
    least_samples,
    mann_whitney,
    paired_ratio,
    ratio_interval,
    ratio_of_medians,
    signed_rank,
)
from kvbench.errors import check_choice
from kvbench.plan.axes import AXES, MODEL_AXES
from kvbench.records.columns import column, nullable_axes_after
from kvbench.records.sample import (
    MEMORY_COLUMNS,
    Sample,
    latest_rows,
    reading_method,
    sample_at,
)

__all__ = [
    "BY",
    "PAIRED",
    "Comparison",
    "Judgement",
    "Rule",
    "Side",
    "Unmatched",
    "compare",
    "least_each",
    "mean_ratio",
]

Judgement = Literal["faster", "slower", "less", "more", "same", "unclear"]

BY = ("run", *AXES)
"""What can differ between two sides: the run, or a field of the case."""

PAIRED = tuple(name for name in AXES if name not in MODEL_AXES)
"""Axes whose two values are timed in the same rounds, because one loaded model covers both. Sides
that need another load or another run were measured at different times.
"""

_MOST_SAMPLES = 1000
"""Sample counts estimated above this are reported only as "very many"."""

_POWER = 0.9
"""The power used to estimate how many samples a verdict needs."""


@dataclass(frozen=True)
class Rule:
    """When a difference counts as real.

    Attributes:
        threshold: the ratio must differ from 1 by more than this fraction, in either direction.
        level: p-value, after Holm's correction over the rows, below which a difference is
            significant.
    """

    threshold: float = 0.05
    level: float = 0.01


@dataclass(frozen=True)
class Side:
    """The samples of one run, or of one value of an axis, under a display name.

    Attributes:
        name: the run's name, or the value.
        runs: the samples of each run on this side, by column. They are pooled, but retries and
            rounds are only known within a run. Along an axis, all sides have the same runs in the
            same order.
    """

    name: str
    runs: tuple[Mapping[str, Sequence[Any]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
@nullable_axes_after("metric")
class Comparison:
    """One case on two sides, A and B. Null means not applicable, never zero.

    It has the fields of the case; the axis that differs is null.
    """

    a: str = column("Side A: a run, or a value of the axis.")
    b: str = column("Side B.")
    metric: str = column(
        "What is compared (ratio, interval, verdict): time, or energy per token.",
        default="time",
    )
    a_samples: int = column(
        "Counted samples of A that have the metric, cold ones excluded.", unit="samples"
    )
    b_samples: int = column("The same for B.", unit="samples")
    a_cold_starts: int = column("Cold samples of A, excluded.", unit="samples", default=0)
    b_cold_starts: int = column("Cold samples of B, excluded.", unit="samples", default=0)
    rounds: int | None = column(
        "Rounds used for the ratio: both sides measured by one worker process of one run. Null "
        "where the sides share no rounds by design, such as two runs.",
        unit="rounds",
        default=None,
    )
    a_total_s: float = column("Median wall time of A.", unit="s")
    b_total_s: float = column("Median wall time of B.", unit="s")
    a_energy_j_per_token: float | None = column(
        "Median energy of A per new token.", unit="J", default=None
    )
    b_energy_j_per_token: float | None = column(
        "Median energy of B per new token.", unit="J", default=None
    )
    ratio: float = column(
        "The metric of B over that of A: below 1, B is faster or uses less energy. With rounds, "
        "the Hodges-Lehmann estimate of the ratios within rounds; otherwise the ratio of the "
        "medians."
    )
    ratio_ci95_low: float | None = column(
        "95 % confidence interval of the ratio: with rounds, from the exact signed-rank "
        "distribution (null below 6 rounds); otherwise a bootstrap (null below 6 samples on a "
        "side).",
        default=None,
    )
    ratio_ci95_high: float | None = column("Upper end of the interval.", default=None)
    p_value: float | None = column(
        "p-value of a two-sided test, Holm-corrected over all rows that have one: with rounds, "
        "Wilcoxon's signed rank (exact up to 200 rounds); otherwise Mann-Whitney (exact up to 100 "
        "against 100 samples). Null where the sides are not comparable.",
        default=None,
    )
    verdict: Judgement | None = column(
        "faster or slower (energy: less or more): B differs by more than the threshold, beyond "
        "chance. same: the whole interval lies within the threshold. unclear: neither. null: the "
        "sides are not comparable.",
        default=None,
    )
    samples_needed: int | None = column(
        "unclear: samples (or rounds) needed on each side for a verdict nine times in ten, if the "
        "ratio stays the same. Too few samples: the smallest number that allows a verdict. Null "
        "above 1000.",
        unit="samples",
        default=None,
    )
    a_memory_bytes: int | None = column("Median peak memory of A.", unit="bytes", default=None)
    b_memory_bytes: int | None = column("Median peak memory of B.", unit="bytes", default=None)
    memory_ratio: float | None = column(
        "Memory of B over that of A; null where the two were read with different methods, such as "
        "NVML and the resident set.",
        default=None,
    )


@dataclass(frozen=True)
class Unmatched:
    """A case, or part of one, that is missing or failed on one side, so it is not compared.

    Attributes:
        side: the side that has the case.
        case: the case, in words.
        reason: what is missing, and where.
        failed: whether it ran on this side and failed.
    """

    side: str
    case: str
    reason: str
    failed: bool = False


def compare(
    base: Side,
    *others: Side,
    by: str = "run",
    rule: Rule | None = None,
    metric: str = "time",
) -> tuple[tuple[Comparison, ...], tuple[Unmatched, ...]]:
    """Compare each other side B with side A (`base`), case by case.

    Cases match when they agree on every axis except `by`. Rows are ordered by pair of sides, then
    by model and size. A CPU side and a GPU side are not comparable and get no verdict.

    Raises:
        UserError: there is no such axis or metric.
    """
    check_choice("--by", "axis", by, BY)
    check_choice("--metric", "metric", metric, METRICS)
    chosen = METRICS[metric]
    sides = [_Cases(side, by) for side in (base, *others)]
    everything = [case.first for side in sides for case in side.found.values()]
    order, differing = ReadingOrder(everything), varied(everything)
    matches: list[_Match] = []
    unmatched: list[Unmatched] = []
    for other in sides[1:]:
        matches += _matches(sides[0], other, by, order, chosen)
        for here, there in ((sides[0], other), (other, sides[0])):
            unmatched += _unmatched(here, there, order, differing, chosen)
    rows = _judged(matches, by, rule or Rule())
    return tuple(rows), tuple(dict.fromkeys(unmatched))


def mean_ratio(rows: Iterable[Comparison]) -> float | None:
    """Return the geometric mean of the ratios; None without rows."""
    ratios = [row.ratio for row in rows]
    return geometric_mean(ratios) if ratios else None


_Key = tuple[object, ...]

_NO_REASON = "no reason given"


@dataclass(slots=True)
class _Readings:
    """One metric of the counted samples, cold ones excluded.

    Attributes:
        values: all of them.
        rounds: the same, by run, session, worker and round.
    """

    values: list[float] = field(default_factory=list)
    rounds: dict[tuple[int, int, int, int], float] = field(default_factory=dict)


@dataclass(slots=True)
class _Case:
    """The samples of one case on one side.

    Attributes:
        first: the first of them.
        failure: the error of the first failed sample; None if none failed.
        timed: how many count and are not cold.
        readings: the values read, by metric and by reading method.
        missing: why a metric is missing in some of them, by the metric.
        cold: how many are cold.
        peaks: peak memory in bytes, by reading method.
    """

    first: Sample
    failure: str | None = None
    timed: int = 0
    readings: dict[str, dict[str, _Readings]] = field(
        default_factory=lambda: {name: {} for name in METRICS}
    )
    missing: dict[str, str] = field(default_factory=dict)
    cold: int = 0
    peaks: dict[str, list[int]] = field(default_factory=dict)


class _Cases:
    """The cases of one side by their key, without the axis being compared."""

    def __init__(self, side: Side, by: str) -> None:
        self.name = side.name
        self.found: dict[_Key, _Case] = {}
        for run, columns in enumerate(side.runs):
            self._add(run, columns, [name for name in AXES if name != by])

    def _add(self, run: int, columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
        keys = list(zip(*(columns[name] for name in names), strict=True))
        phases, totals = columns["phase"], columns["total_s"]
        statuses, errors = columns["status"], columns["error"]
        peaks = {kind: columns[peak] for kind, (peak, _) in MEMORY_COLUMNS.items()}
        methods = columns["memory_method"]
        metrics = {
            name: (metric.values(columns), metric.methods(columns))
            for name, metric in METRICS.items()
        }
        sessions, workers, rounds = columns["session"], columns["worker"], columns["round"]
        latest = latest_rows(columns)
        counted = frozenset(
            row
            for row in latest
            if phases[row] == "measure" and statuses[row] == "ok" and totals[row] is not None
        )
        cold = cold_rows(columns, (row for row in latest if row in counted))
        for row in latest:
            case = self.found.get(keys[row])
            if case is None:
                case = self.found[keys[row]] = _Case(sample_at(columns, row))
            if statuses[row] != "ok":
                case.failure = case.failure or f"{statuses[row]}: {errors[row] or _NO_REASON}"
                continue
            if row in cold:
                case.cold += 1
            elif row in counted:
                case.timed += 1
                place = run, sessions[row], workers[row], rounds[row]
                for name, (figures, ways) in metrics.items():
                    figure, way = figures[row], ways[row]
                    if figure is None:
                        case.missing[name] = way
                        continue
                    readings = case.readings[name].setdefault(way, _Readings())
                    readings.values.append(figure)
                    readings.rounds[place] = figure
            if phases[row] != "warmup":
                for kind, values in peaks.items():
                    if values[row] is not None:
                        method = reading_method(kind, methods[row])
                        case.peaks.setdefault(method, []).append(values[row])

    def by_order(self, order: ReadingOrder) -> list[_Key]:
        return sorted(self.found, key=lambda key: order(self.found[key].first))


@dataclass(frozen=True)
class _Match:
    """A row before its verdict, with its uncorrected p-value."""

    row: Comparison
    p_value: float


def _matches(
    base: _Cases, other: _Cases, by: str, order: ReadingOrder, metric: Metric
) -> list[_Match]:
    pairs = [
        (base.found[key], other.found[key]) for key in base.by_order(order) if key in other.found
    ]
    return [
        _match(base.name, a, other.name, b, by, metric)
        for a, b in pairs
        if _common(a, b, metric) is not None
    ]


def _match(name_a: str, a: _Case, name_b: str, b: _Case, by: str, metric: Metric) -> _Match:
    way = _common(a, b, metric)
    assert way is not None
    here, there = (case.readings[metric.name][way] for case in (a, b))
    ratio, p_value = (_paired if by in PAIRED else _unpaired)(here, there)
    case = {name: getattr(a.first, name) for name in AXES if name != by}
    row = Comparison(
        a=name_a,
        b=name_b,
        metric=metric.name,
        a_samples=len(here.values),
        b_samples=len(there.values),
        a_cold_starts=a.cold,
        b_cold_starts=b.cold,
        **_medians(a, b),
        **ratio,
        **_memory(a, b),
        **case,
    )
    return _Match(row, p_value)


def _common(a: _Case, b: _Case, metric: Metric) -> str | None:
    """Return the reading method that most samples of both sides share; None if none is shared."""
    here, there = a.readings[metric.name], b.readings[metric.name]
    return max(
        (way for way in here if way in there),
        key=lambda way: min(len(here[way].values), len(there[way].values)),
        default=None,
    )


def _medians(a: _Case, b: _Case) -> dict[str, Any]:
    """Return the medians of each metric on both sides, restricted to the shared reading method."""
    found: dict[str, Any] = {}
    for metric in METRICS.values():
        way = _common(a, b, metric)
        for side, case in (("a", a), ("b", b)):
            readings = case.readings[metric.name]
            best = way or max(readings, key=lambda w: len(readings[w].values), default=None)
            value = None if best is None else float(np.median(readings[best].values))
            found[f"{side}_{metric.field}"] = value
    return found


def _paired(a: _Readings, b: _Readings) -> tuple[dict[str, Any], float]:
    """Return the ratio from shared rounds; without any, the ratio of medians and no claim."""
    pairs = [(b.rounds[key], value) for key, value in a.rounds.items() if key in b.rounds]
    if not pairs:
        return {"rounds": 0, "ratio": ratio_of_medians(b.values, a.values)}, 1.0
    above, below = zip(*pairs, strict=True)
    found = paired_ratio(above, below)
    ratio = {
        "rounds": found.pairs,
        "ratio": found.ratio,
        "ratio_ci95_low": found.low,
        "ratio_ci95_high": found.high,
    }
    return ratio, signed_rank(above, below)


def _unpaired(a: _Readings, b: _Readings) -> tuple[dict[str, Any], float]:
    low, high = ratio_interval(b.values, a.values) or (None, None)
    ratio = {
        "ratio": ratio_of_medians(b.values, a.values),
        "ratio_ci95_low": low,
        "ratio_ci95_high": high,
    }
    return ratio, mann_whitney(a.values, b.values)


def _memory(a: _Case, b: _Case) -> dict[str, Any]:
    """Return the median peaks of both sides and their ratio, from the best shared reading."""
    # Each side lists its best reading method first.
    common = next((method for method in a.peaks if method in b.peaks), None)
    peak_a, peak_b = (_median_peak(case.peaks, common) for case in (a, b))
    return {
        "a_memory_bytes": peak_a,
        "b_memory_bytes": peak_b,
        "memory_ratio": peak_b / peak_a if common and peak_a and peak_b else None,
    }


def _median_peak(peaks: Mapping[str, Sequence[int]], method: str | None) -> int | None:
    """Return the median peak by that method, or else by the best available one."""
    best = method or next(iter(peaks), None)
    return None if best is None else round(float(np.median(peaks[best])))


def _judged(matches: Sequence[_Match], by: str, rule: Rule) -> list[Comparison]:
    alike = [m for m in matches if by != "device" or _kind(m.row.a) == _kind(m.row.b)]
    p_values = holm([match.p_value for match in alike])
    judged = {
        id(match): _with_verdict(match.row, p_value, rule, len(alike))
        for match, p_value in zip(alike, p_values, strict=True)
    }
    return [judged.get(id(match), match.row) for match in matches]


def _with_verdict(row: Comparison, p_value: float, rule: Rule, rows: int) -> Comparison:
    verdict = _verdict(row, p_value, rule)
    needed = _needed(row, p_value, rule, rows) if verdict == "unclear" else None
    return replace(row, p_value=p_value, verdict=verdict, samples_needed=needed)


def _verdict(row: Comparison, p_value: float, rule: Rule) -> Judgement:
    metric = METRICS[row.metric]
    most, least = 1 + rule.threshold, 1 / (1 + rule.threshold)
    if p_value < rule.level:
        if row.ratio > most:
            return metric.higher
        if row.ratio < least:
            return metric.lower
    low, high = row.ratio_ci95_low, row.ratio_ci95_high
    if low is not None and high is not None and least <= low and high <= most:
        return "same"
    return "unclear"


def least_each(row: Comparison, level: float) -> int:
    """Return the fewest samples per side, or rounds, for which a row can be significant."""
    return least_samples(level) if row.rounds is None else least_rounds(level)


def _needed(row: Comparison, p_value: float, rule: Rule, rows: int) -> int | None:
    """Return how many samples per side, or rounds, likely give a verdict at this ratio.

    Intervals narrow, and test statistics grow, with the square root of the number. Both vary from
    one set of samples to the next by about one standard error: a fraction `_POWER` of the sets has
    to reach the target.

    Source: the usual sample size of a two-sided test, `(z_level + z_power)^2` over the square of
    the effect in standard errors of one sample.
    """
    from scipy.special import ndtri, stdtrit

    least = least_each(row, rule.level / rows)
    if row.ratio_ci95_low is None or row.ratio_ci95_high is None:
        return least
    now, widths = min(row.a_samples, row.b_samples), 1.96
    if row.rounds is not None:
        now, widths = row.rounds, -float(stdtrit(row.rounds - 1, (1 - PAIRED_LEVEL) / 2))
    distance = abs(math.log(row.ratio))
    edge, power = math.log1p(rule.threshold), -ndtri(1 - _POWER)
    error = (math.log(row.ratio_ci95_high) - math.log(row.ratio_ci95_low)) / 2 / widths
    growth = math.inf
    if distance > edge:
        # A verdict needs both: significance, and a median beyond the threshold.
        reached = -ndtri(max(p_value / rows, 1e-300) / 2)
        if row.rounds is not None:
            # With few rounds even the smallest p-value is large, however far the ratios are from 1.
            reached = distance / error if error > 0 else math.inf
        wanted = power - ndtri(rule.level / rows / 2)
        growth = max(
            wanted / reached if reached > 0 else math.inf, power * error / (distance - edge)
        )
    elif distance < edge:
        growth = (1.96 + power) * error / (edge - distance)
    needed = now * growth**2
    return max(math.ceil(needed), now + 1, least) if needed <= _MOST_SAMPLES else None


def _unmatched(
    here: _Cases,
    there: _Cases,
    order: ReadingOrder,
    differing: Collection[str],
    metric: Metric,
) -> list[Unmatched]:
    found = []
    for key in here.by_order(order):
        case, other = here.found[key], there.found.get(key)
        failed = case.failure is not None
        if not case.timed:
            reason = case.failure or "no sample"
        elif other is None:
            reason, failed = f"not in {there.name}", False
        elif (lacking := _lacking(case, other, metric)) is not None:
            reason = f"{case.failure}; {lacking}" if case.failure else lacking
        elif case.failure:
            # For example, running out of memory in a later round, which ends the case.
            still = "sample before is" if case.timed == 1 else f"{case.timed} samples before are"
            reason = f"{case.failure}; the {still} compared"
        else:
            # If the other side lacks the metric, the entry of that side reports it.
            continue
        found.append(Unmatched(here.name, describe(case.first, differing), reason, failed))
    return found


def _lacking(case: _Case, other: _Case, metric: Metric) -> str | None:
    """Return why a case that was timed cannot be compared on this side; None if it can."""
    here, there = case.readings[metric.name], other.readings[metric.name]
    if not here:
        return f"no {metric.name} reading ({case.missing[metric.name]})"
    if not there or any(way in there for way in here):
        return None
    return f"{metric.name} was read with different methods ({', '.join(here)}; {', '.join(there)})"


def _kind(device: str) -> str:
    return device.split(":")[0]
