"""Compare runs, or two values of one axis inside a run: ratios, intervals, verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from kvbench.analysis.statistics import (
    MIN_FOR_INTERVAL,
    geometric_mean,
    holm,
    mann_whitney,
    ratio_interval,
    ratio_of_medians,
)
from kvbench.errors import UserError, did_you_mean
from kvbench.records.columns import column
from kvbench.records.sample import Sample, latest, memory_readings

__all__ = ["AXES", "Comparison", "Judgement", "Rule", "Side", "Unmatched", "compare", "mean_ratio"]

Judgement = Literal["faster", "slower", "same", "unclear"]

_CASE = (
    "model",
    "weights",
    "device",
    "dtype",
    "attention",
    "cache",
    "batch_size",
    "prompt",
    "max_new_tokens",
)
AXES = ("run", *_CASE)
"""What can differ between two sides: the run, or a field of the case."""

_MOST_SAMPLES = 1000
"""An estimate of more samples than this says no more than: very many."""


@dataclass(frozen=True)
class Rule:
    """When a difference counts.

    Attributes:
        threshold: a ratio has to move past 1 by this share, either way.
        level: p-value, after Holm's correction over the rows, below which a move is no chance.
    """

    threshold: float = 0.05
    level: float = 0.01


@dataclass(frozen=True)
class Side:
    """The samples of one run, or those of one value of an axis, under a name for people."""

    name: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One case on two sides, A and B. Null means that it does not apply, never zero."""

    a: str = column("Side A: a run, or a value of the axis.")
    b: str = column("Side B.")
    model: str | None = column("As in samples.csv; null where it is what differs.", default=None)
    weights: str | None = column("As in samples.csv.", default=None)
    device: str | None = column("As in samples.csv.", default=None)
    dtype: str | None = column("As in samples.csv.", default=None)
    attention: str | None = column("As in samples.csv.", default=None)
    cache: str | None = column("As in samples.csv.", default=None)
    batch_size: int | None = column("As in samples.csv.", unit="sequences", default=None)
    prompt: str | None = column("As in samples.csv.", default=None)
    max_new_tokens: int | None = column("As in samples.csv.", unit="tokens", default=None)
    a_samples: int = column("Counted samples of A.", unit="samples")
    b_samples: int = column("Counted samples of B.", unit="samples")
    a_total_s: float = column("Median wall time of A.", unit="s")
    b_total_s: float = column("Median wall time of B.", unit="s")
    ratio: float = column("Median time of B over that of A: below 1, B is faster.")
    ratio_ci95_low: float | None = column(
        "95 % bootstrap interval of the ratio; null under 5 samples on a side.", default=None
    )
    ratio_ci95_high: float | None = column("Upper end of it.", default=None)
    p_value: float | None = column(
        "Two-sided Mann-Whitney test, exact up to 100 against 100 samples, after Holm's correction "
        "over the rows.",
        default=None,
    )
    verdict: Judgement | None = column(
        "faster or slower: B is, past the threshold and beyond chance. same: the whole interval "
        "lies within the threshold. unclear: neither. null: the sides are not like each other.",
        default=None,
    )
    samples_needed: int | None = column(
        "unclear: about as many samples on each side would settle it; null where there are too few "
        "to tell, or it would take over 1000.",
        unit="samples",
        default=None,
    )
    a_memory_bytes: int | None = column("Median memory peak of A.", unit="bytes", default=None)
    b_memory_bytes: int | None = column("Median memory peak of B.", unit="bytes", default=None)
    memory_ratio: float | None = column("Memory of B over that of A.", default=None)


@dataclass(frozen=True)
class Unmatched:
    """A case that one side has and the other has not, or has no time for."""

    side: str
    case: str
    reason: str


def compare(
    base: Side, other: Side, by: str = "run", rule: Rule | None = None
) -> tuple[tuple[Comparison, ...], tuple[Unmatched, ...]]:
    """Compare side B (`other`) with side A (`base`), case by case.

    Cases are matched on all that makes one except the axis `by`. Rows stand in A's order. Sides on
    a CPU and on a GPU are not like each other and get no verdict.

    Raises:
        UserError: there is no such axis.
    """
    if by not in AXES:
        raise UserError(f"--by: no axis '{by}'; known: {', '.join(AXES)}{did_you_mean(by, AXES)}")
    rule = rule or Rule()
    a, b = _by_case(base, by), _by_case(other, by)
    common = [key for key in a if key in b and _times(a[key]) and _times(b[key])]
    rows = [_row(base, other, by, a[key], b[key]) for key in common]
    alike = not (by == "device" and _kind(base.name) != _kind(other.name))
    if alike:
        rows = _judged(rows, [(_times(a[key]), _times(b[key])) for key in common], rule)
    unmatched = [*_unmatched(base, a, b), *_unmatched(other, b, a)]
    return tuple(rows), tuple(unmatched)


def mean_ratio(rows: Iterable[Comparison]) -> float | None:
    """The geometric mean of the ratios; None without rows."""
    ratios = [row.ratio for row in rows]
    return geometric_mean(ratios) if ratios else None


_Key = tuple[object, ...]
_Cases = Mapping[_Key, Sequence[Sample]]


def _by_case(side: Side, by: str) -> _Cases:
    names = [name for name in _CASE if name != by]
    found: dict[_Key, list[Sample]] = {}
    for sample in latest(side.samples):
        found.setdefault(tuple(getattr(sample, name) for name in names), []).append(sample)
    return found


def _times(samples: Sequence[Sample]) -> list[float]:
    return [s.total_s for s in samples if s.phase == "measure" and s.total_s and s.status == "ok"]


def _row(base: Side, other: Side, by: str, a: Sequence[Sample], b: Sequence[Sample]) -> Comparison:
    times_a, times_b = _times(a), _times(b)
    low, high = ratio_interval(times_b, times_a) or (None, None)
    memory_a, memory_b = _memory(a), _memory(b)
    case = {name: getattr(a[0], name) for name in _CASE if name != by}
    return Comparison(
        a=base.name,
        b=other.name,
        a_samples=len(times_a),
        b_samples=len(times_b),
        a_total_s=float(np.median(times_a)),
        b_total_s=float(np.median(times_b)),
        ratio=ratio_of_medians(times_b, times_a),
        ratio_ci95_low=low,
        ratio_ci95_high=high,
        a_memory_bytes=memory_a,
        b_memory_bytes=memory_b,
        memory_ratio=memory_b / memory_a if memory_a and memory_b else None,
        **case,
    )


def _memory(samples: Sequence[Sample]) -> int | None:
    readings = [memory_readings(s) for s in samples if s.status == "ok" and s.phase != "warmup"]
    peaks = [peak for peak, _ in filter(None, readings)]
    return round(float(np.median(peaks))) if peaks else None


def _judged(
    rows: Sequence[Comparison], times: Sequence[tuple[list[float], list[float]]], rule: Rule
) -> list[Comparison]:
    p_values = holm([mann_whitney(a, b) for a, b in times])
    judged = []
    for row, p_value in zip(rows, p_values, strict=True):
        verdict = _verdict(row, p_value, rule)
        needed = _needed(row, p_value, rule, len(rows)) if verdict == "unclear" else None
        judged.append(replace(row, p_value=p_value, verdict=verdict, samples_needed=needed))
    return judged


def _verdict(row: Comparison, p_value: float, rule: Rule) -> Judgement:
    most, least = 1 + rule.threshold, 1 / (1 + rule.threshold)
    if p_value < rule.level:
        if row.ratio > most:
            return "slower"
        if row.ratio < least:
            return "faster"
    low, high = row.ratio_ci95_low, row.ratio_ci95_high
    if low is not None and high is not None and least <= low and high <= most:
        return "same"
    return "unclear"


def _needed(row: Comparison, p_value: float, rule: Rule, rows: int) -> int | None:
    """Samples on each side at which a verdict is to be expected, if the medians stay.

    Intervals narrow, and test statistics grow, with the square root of the number.
    """
    if row.ratio_ci95_low is None or row.ratio_ci95_high is None:
        return MIN_FOR_INTERVAL
    now, distance = min(row.a_samples, row.b_samples), abs(math.log(row.ratio))
    edge = math.log1p(rule.threshold)
    if distance > edge:
        wanted = stats.norm.isf(rule.level / rows / 2)
        reached = stats.norm.isf(max(p_value / rows, 1e-300) / 2)
        growth = wanted / reached if reached > 0 else math.inf
    else:
        half = (math.log(row.ratio_ci95_high) - math.log(row.ratio_ci95_low)) / 2
        growth = half / (edge - distance) if distance < edge else math.inf
    needed = now * growth**2
    return max(math.ceil(needed), now + 1) if needed <= _MOST_SAMPLES else None


def _unmatched(side: Side, here: _Cases, there: _Cases) -> list[Unmatched]:
    found = []
    for key, samples in here.items():
        if not _times(samples):
            failed = next((s for s in samples if s.status != "ok"), None)
            reason = f"{failed.status}: {failed.error}" if failed else "no sample"
        elif key not in there:
            reason = "not on the other side"
        else:
            # Where the other side has no time for it, that side tells.
            continue
        found.append(Unmatched(side.name, _label(samples[0]), reason))
    return found


def _label(sample: Sample) -> str:
    return (
        f"{sample.model} on {sample.device}, {sample.dtype}, {sample.cache}, batch "
        f"{sample.batch_size}, {sample.max_new_tokens} new tokens"
    )


def _kind(device: str) -> str:
    return device.split(":")[0]
