"""Medians, intervals and tests, from numpy and scipy; and a bootstrap of medians that is quick.

scipy.stats is imported where it is needed: that takes longer than most commands.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

__all__ = [
    "MIN_FOR_INTERVAL",
    "bootstrap_medians",
    "geometric_mean",
    "holm",
    "least_samples",
    "mann_whitney",
    "ratio_interval",
    "ratio_of_medians",
]

MIN_FOR_INTERVAL = 5
"""Below this many samples in an arm no interval is given: a bootstrap of fewer knows too little."""

_RESAMPLES = 2000
_EXACT_UP_TO = 10_000
"""The exact distribution of U takes time and memory with the product of the sample sizes."""


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of `above` over median of `below`."""
    return float(np.median(above) / np.median(below))


def ratio_interval(
    above: Sequence[float], below: Sequence[float], *, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the ratio of medians, the arms resampled on their own.

    The same samples give the same interval: the seeds are fixed. None where an arm has fewer than
    `MIN_FOR_INTERVAL` samples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if min(len(above), len(below)) < MIN_FOR_INTERVAL:
        return None
    ratios = bootstrap_medians(above, 0) / bootstrap_medians(below, 1)
    tail = (1 - level) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_medians(values: Sequence[float], stream: int = 0) -> np.ndarray:
    """Medians of 2000 resamples of `values`, as an array `[2000]`.

    A resample's median is one of the sorted values, or the mean of two: only their places are
    drawn, from their exact distribution. The result is distributed as that of
    `scipy.stats.bootstrap`, in a time that does not grow with the number of values. `stream` picks
    the random numbers.
    """
    low, high = _median_places(len(values), stream)
    ordered = np.sort(np.asarray(values, dtype=float))
    return np.asarray((ordered[low] + ordered[high]) / 2)


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value that two samples come from one distribution.

    Exact for up to 100 against 100 samples, beyond that by the normal approximation.

    Source: Mann and Whitney (1947); `scipy.stats.mannwhitneyu`.
    """
    from scipy import stats

    exact = len(first) * len(second) <= _EXACT_UP_TO
    method = "exact" if exact else "asymptotic"
    return float(stats.mannwhitneyu(first, second, method=method).pvalue)


def least_samples(level: float) -> int:
    """The fewest samples on each side with which the exact test can come below a level.

    The least p-value of n against n samples is 2 over the number of ways to choose n of 2n.
    """
    count = MIN_FOR_INTERVAL
    while 2 / math.comb(2 * count, count) >= level:
        count += 1
    return count


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, adjusted so that all of them together keep the level of one.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    count, largest = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def geometric_mean(ratios: Sequence[float]) -> float:
    """The geometric mean: that of the inverse ratios is its inverse, unlike the arithmetic one."""
    return math.exp(math.fsum(math.log(ratio) for ratio in ratios) / len(ratios))


@functools.lru_cache(maxsize=256)
def _median_places(count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """For each resample the places, in the sorted values, of the two its median lies between.

    Of `count` uniform numbers the k-th smallest has a beta distribution with k and count + 1 - k;
    the next one is the smallest of the count - k that are left above it. A uniform number u stands
    for the value at place floor(u * count).
    """
    rng = np.random.default_rng([stream, count])
    lower = (count + 1) // 2
    first = rng.beta(lower, count + 1 - lower, _RESAMPLES)
    second = first
    if count % 2 == 0:
        gap = 1 - (1 - rng.random(_RESAMPLES)) ** (1 / (count - lower))
        second = first + (1 - first) * gap
    last = count - 1
    places = [np.minimum((u * count).astype(int), last) for u in (first, second)]
    return places[0], places[1]
