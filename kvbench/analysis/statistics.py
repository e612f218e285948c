"""Compute medians, intervals and tests: paired and unpaired ratios, trends, outliers, corrections.

scipy.stats is imported only where it is needed: the import takes longer than most commands.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np

__all__ = [
    "MIN_FOR_INTERVAL",
    "PAIRED_LEVEL",
    "PairedRatio",
    "Trend",
    "bootstrap_medians",
    "fastest",
    "geometric_mean",
    "holm",
    "least_rounds",
    "least_samples",
    "line_fit",
    "mann_whitney",
    "outliers",
    "paired_ratio",
    "ratio_interval",
    "ratio_of_medians",
    "signed_rank",
    "trend",
]

MIN_FOR_INTERVAL = 6
"""Below this many samples, or rounds, there is no interval and no claim: with five rounds even the
range of all ratios is not a 95 % interval, and a bootstrap of fewer samples covers too little.
"""

PAIRED_LEVEL = 0.96
"""The least exact confidence of a paired interval that is reported as 95 %. The margin allows for
ratios that are not quite symmetric and keeps false claims under 5 %.
"""

_DIRECT_UP_TO = 400
"""The most pairs whose Walsh averages are listed (80,200 of them); beyond that, ranks are searched.
"""

_EXACT_SIGNED_RANK_UP_TO = 200
_EXACT_KENDALL_UP_TO = 60
_TREND_UP_TO = 1000
"""Beyond these sizes the normal approximation is used: it differs in the fourth digit."""

_RESAMPLES = 2000
_EXACT_UP_TO = 10_000
"""The most samples per side for the exact distribution of U: its time and memory grow with the
product of the sizes.
"""


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of `above` over the median of `below`."""
    return float(np.median(above) / np.median(below))


def ratio_interval(
    above: Sequence[float], below: Sequence[float], *, level: float = 0.95
) -> tuple[float, float] | None:
    """Return a percentile bootstrap interval of the ratio of medians; sides resample separately.

    The same samples give the same interval: the seeds are fixed. None if a side has fewer than
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
    """Return the medians of 2000 resamples of `values`, as an array `[2000]`.

    A resample's median is one of the sorted values, or the mean of two: only their ranks are drawn,
    from their exact distribution. The result has the same distribution as `scipy.stats.bootstrap`
    gives, in a time that does not grow with the number of values. `stream` selects the random
    numbers.
    """
    low, high = _median_places(len(values), stream)
    ordered = np.sort(np.asarray(values, dtype=float))
    return np.asarray((ordered[low] + ordered[high]) / 2)


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """A ratio estimated from pairs; `low` and `high` are null if there are too few pairs."""

    ratio: float
    low: float | None
    high: float | None
    pairs: int


def paired_ratio(
    above: Sequence[float], below: Sequence[float], *, level: float = PAIRED_LEVEL
) -> PairedRatio:
    """Estimate a ratio from pairs: `above[i] / below[i]`, both taken close together in time.

    The estimate is the Hodges-Lehmann estimator on the logarithms of the ratios: the median of the
    means of all pairs of them (Walsh averages, including each with itself). The ends of the
    interval are Walsh averages, at the ranks given by the exact distribution of Wilcoxon's
    signed-rank statistic. It holds for any symmetric distribution, such as the difference of two
    samples with the same noise. Whatever changes both members of a pair alike, such as a slower
    clock, has no effect.

    Source: Hollander, Wolfe and Chicken, Nonparametric Statistical Methods (3rd edition, 2014),
    sections 3.2 and 3.3; Hodges and Lehmann (1963); Tukey (1949) for the interval.

    Args:
        above: one or more times.
        below: as many times, in matching order.
        level: the exact confidence of the interval is at least this.
    """
    logs = np.sort(np.log(np.asarray(above, dtype=float) / np.asarray(below, dtype=float)))
    count = len(logs)
    total = count * (count + 1) // 2
    place = _signed_rank_place(count, level)
    ends = [] if place == 0 else [place, total + 1 - place]
    middle = [(total + 1) // 2, total // 2 + 1]
    found = [math.exp(value) for value in _walsh(logs, ends)]
    estimate = math.exp(math.fsum(_walsh(logs, middle)) / 2)
    low, high = found if found else (None, None)
    return PairedRatio(estimate, low, high, count)


def signed_rank(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the two-sided p-value that the ratios of pairs center on 1; 1 without pairs.

    Wilcoxon's signed-rank test of the logarithms, exact up to 200 pairs. Ratios of exactly 1 count
    half to each side.

    Source: Wilcoxon (1945); Hollander, Wolfe and Chicken (2014), section 3.1.
    """
    logs = np.sort(np.log(np.asarray(above, dtype=float) / np.asarray(below, dtype=float)))
    count = len(logs)
    if count == 0:
        return 1.0
    total = count * (count + 1) // 2
    # The statistic is the number of positive Walsh averages.
    positive = total - _walsh_count(logs, 0.0)
    equal = total - positive - _walsh_count(logs, np.nextafter(0.0, -1.0))
    smaller = math.ceil(min(positive, total - positive - equal) + equal / 2)
    return min(1.0, 2 * _signed_rank_tail(count, smaller))


def fastest(times: Mapping[str, Sequence[float]], *, level: float = 0.05) -> str | None:
    """Return the name whose times are shown to be the least; None where none are.

    One is named if it is faster than each of the others by the signed-rank test of their rounds,
    one-sided, at the level over the number of names. A name is wrong only if its test against an
    equally fast one is, and there are as many names: a wrong one is given in at most `level` of
    all runs, whichever are equally fast.

    Source: Berger (1982) for the tests of all others at once (intersection-union); Bonferroni for
    the names.

    Args:
        times: for each name one time a round, in the order of the rounds.
        level: the chance that a name is given which is not the fastest.
    """
    most = 2 * level / max(len(times), 1)
    for name, own in times.items():
        others = [values for other, values in times.items() if other != name]
        if others and all(
            paired_ratio(values, own).ratio > 1 and signed_rank(values, own) <= most
            for values in others
        ):
            return name
    return None


def least_rounds(level: float) -> int:
    """Return the fewest pairs for which the signed-rank test can be significant at a level.

    The smallest p-value of n pairs is 2 / 2^n.
    """
    count = MIN_FOR_INTERVAL
    while 2 / 2**count >= level:
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether values rise or fall: `p_value` of Kendall's test against their order.

    Attributes:
        change: median of the last third over that of the first, minus 1.
        p_value: two-sided, exact up to 60 values.
    """

    change: float
    p_value: float


def trend(values: Sequence[float]) -> Trend:
    """Test whether values rise or fall in their order; ties count for neither.

    Source: Mann, Nonparametric Tests against Trend (1945); Kendall, Rank Correlation Methods.
    """
    ordered = np.asarray(values, dtype=float)
    if len(ordered) > _TREND_UP_TO:
        # For a long series, use evenly spaced values: the number of pairs grows with the square.
        ordered = ordered[np.linspace(0, len(ordered) - 1, _TREND_UP_TO).astype(int)]
    count = len(ordered)
    if count < 2:
        return Trend(0.0, 1.0)
    first, second = _pairs(count, 1)
    score = abs(int(np.sign(ordered[second] - ordered[first]).sum()))
    third = max(count // 3, 1)
    change = median(ordered[-third:].tolist()) / median(ordered[:third].tolist()) - 1
    return Trend(change, _kendall_p_value(count, score))


def outliers(values: Sequence[float], *, fences: float = 3.0, factor: float = 1.5) -> list[int]:
    """Return the positions of values that are far from all the others, on a log scale.

    A value is far if it lies more than `fences` interquartile ranges of the others outside their
    quartiles, and differs from their median by more than `factor` times. Fewer than three values
    have no outliers.

    Source: Tukey, Exploratory Data Analysis (1977): "far out".
    """
    count = len(values)
    if count < 3 or max(values) <= factor * min(values):
        return []
    order = np.argsort(values, kind="stable")
    logs = np.log(np.asarray(values, dtype=float)[order])
    places = np.arange(count)

    def of_the_others(share: float) -> np.ndarray:
        # Above the value that is left out, ranks shift down by one.
        at = (count - 2) * share
        below, above = int(at), min(int(at) + 1, count - 2)
        ends = (logs[k + (k >= places)] for k in (below, above))
        low, high = ends
        return np.asarray(low + (at - below) * (high - low))

    low, middle, high = map(of_the_others, (0.25, 0.5, 0.75))
    reach = fences * (high - low)
    outside = (logs > high + reach) | (logs < low - reach)
    far = outside & (np.abs(logs - middle) > math.log(factor))
    return sorted(order[far].tolist())


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value that two samples come from one distribution.

    Exact for up to 100 against 100 samples; a normal approximation beyond that.

    Source: Mann and Whitney (1947); `scipy.stats.mannwhitneyu`.
    """
    from scipy import stats

    exact = len(first) * len(second) <= _EXACT_UP_TO
    method = "exact" if exact else "asymptotic"
    return float(stats.mannwhitneyu(first, second, method=method).pvalue)


def least_samples(level: float) -> int:
    """Return the fewest samples per side for which the exact test can be significant at a level.

    The smallest p-value of n against n samples is 2 over the number of ways to choose n of 2n.
    """
    count = MIN_FOR_INTERVAL
    while 2 / math.comb(2 * count, count) >= level:
        count += 1
    return count


def line_fit(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, certainty: float
) -> tuple[float, float]:
    """Return the least-squares slope of y over x and its margin of error.

    With the given certainty, the true slope is not below the slope minus the margin. The results
    equal those of `scipy.stats.linregress` and `scipy.stats.t`.

    Args:
        x: three numbers or more, not all the same.
        y: as many.
        certainty: one-sided, 0.975 for a two-sided interval of 95 %.
    """
    degrees = len(x) - 2
    of_x, of_both, _, of_y = np.cov(x, y, bias=True).flat
    # Constant values have no correlation, and their slope of 0 has no error.
    share = of_both / np.sqrt(of_x * of_y) if of_y > 0 else 1.0
    error = np.sqrt((1 - np.clip(share, -1.0, 1.0) ** 2) * of_y / of_x / degrees)
    return float(of_both / of_x), float(t_quantile(degrees, certainty) * error)


@functools.lru_cache(maxsize=256)
def t_quantile(degrees: int, certainty: float) -> float:
    """Return the quantile of Student's t distribution for a certainty above one half.

    It equals `scipy.special.stdtrit`, whose import takes a tenth of the time of a small report.

    Source: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4, solved by Newton's method. The
    distribution is concave there, so starting below the quantile the steps never pass it.
    """
    quantile, step = NormalDist().inv_cdf(certainty), math.inf
    log_peak = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    peak = math.exp(log_peak) / math.sqrt(degrees * math.pi)
    while step > 1e-15 * quantile:
        density = peak * (1 + quantile**2 / degrees) ** (-(degrees + 1) / 2)
        step = (certainty - _t_distribution(degrees, quantile)) / density
        quantile += step
    return quantile


def _t_distribution(degrees: int, value: float) -> float:
    """Return the probability of at most this value."""
    angle = math.atan(value / math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    # The last term is that of cos^(degrees - 2).
    first = 1 + degrees % 2
    term = total = 0.0 if degrees == 1 else (math.cos(angle) if degrees % 2 else 1.0)
    for number in range(first, degrees - 2, 2):
        term *= square * number / (number + 1)
        total += term
    within = sine * total
    if degrees % 2:
        within = 2 / math.pi * (angle + within)
    return (1 + within) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values with Holm's correction, which controls the family-wise error rate.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    count, largest = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean: unlike the arithmetic mean, it inverts when all ratios invert."""
    return math.exp(math.fsum(math.log(ratio) for ratio in ratios) / len(ratios))


@functools.lru_cache(maxsize=256)
def _median_places(count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each resample, the ranks of the two sorted values that its median lies between.

    Of `count` uniform numbers the k-th smallest has a beta distribution with k and count + 1 - k;
    the next one is the smallest of the count - k that are left above it. A uniform number u selects
    the value at rank floor(u * count).
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


def _walsh(ordered: np.ndarray, ranks: Sequence[int]) -> list[float]:
    """Return the Walsh averages of sorted values at these ranks, counted from 1."""
    if not ranks:
        return []
    if len(ordered) <= _DIRECT_UP_TO:
        first, second = _pairs(len(ordered), 0)
        averages = np.sort((ordered[first] + ordered[second]) / 2)
        return [float(averages[rank - 1]) for rank in ranks]
    return [_walsh_at(ordered, rank) for rank in ranks]


@functools.lru_cache(maxsize=8)
def _pairs(count: int, apart: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of all pairs that are at least `apart` from each other."""
    first, second = np.triu_indices(count, apart)
    return first, second


def _walsh_at(ordered: np.ndarray, rank: int) -> float:
    """Return the same by bisection: the least number with at least `rank` averages up to it."""
    low, high = float(ordered[0]), float(ordered[-1])
    while low < (middle := low + (high - low) / 2) < high:
        if _walsh_count(ordered, middle) >= rank:
            high = middle
        else:
            low = middle
    return low if _walsh_count(ordered, low) >= rank else high


def _walsh_count(ordered: np.ndarray, limit: float) -> int:
    """Return how many Walsh averages of sorted values are at most `limit`."""
    places = np.arange(len(ordered))
    partners = np.searchsorted(ordered, 2 * limit - ordered, side="right")
    return int(np.maximum(partners - places, 0).sum())


@functools.lru_cache(maxsize=1024)
def _signed_rank_place(count: int, level: float) -> int:
    """Return the rank, from either end, of the Walsh average that bounds an interval.

    The interval has at least that confidence. 0 if not even the range of all averages has it.
    """
    # The tail grows with the rank: count the ranks below the first one that is too likely.
    places = range(count * (count + 1) // 2 + 1)
    return bisect.bisect_right(places, 1 - level, key=lambda k: 2 * _signed_rank_tail(count, k))


def _signed_rank_tail(count: int, most: int) -> float:
    """Return the chance that the signed-rank statistic of `count` pairs is at most `most`."""
    if count <= _EXACT_SIGNED_RANK_UP_TO:
        return float(_signed_rank_distribution(count)[most])
    mean = count * (count + 1) / 4
    deviation = math.sqrt(mean * (2 * count + 1) / 6)
    return _normal_tail((mean - most - 0.5) / deviation)


@functools.lru_cache(maxsize=256)
def _signed_rank_distribution(count: int) -> np.ndarray:
    """Return the signed-rank statistic's cumulative distribution `[count * (count + 1) / 2 + 1]`.

    Each of the ranks 1 to `count` is in the sum or not, with equal chance.
    """
    chances = np.zeros(count * (count + 1) // 2 + 1)
    chances[0] = 1.0
    for rank in range(1, count + 1):
        with_rank = np.zeros_like(chances)
        with_rank[rank:] = chances[:-rank]
        chances = (chances + with_rank) / 2
    return np.cumsum(chances)


def _kendall_p_value(count: int, score: int) -> float:
    """Return the chance of a score (pairs in order minus out of order) this far from 0."""
    pairs = count * (count - 1) // 2
    if count <= _EXACT_KENDALL_UP_TO:
        # Ties count for neither order: rounding up keeps the test conservative.
        inversions = (pairs - score + 1) // 2
        return min(1.0, 2 * float(_inversions(count)[inversions]))
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return min(1.0, 2 * _normal_tail((score - 1) / deviation))


@functools.lru_cache(maxsize=128)
def _inversions(count: int) -> np.ndarray:
    """Return the cumulative distribution of the inversions of a random order."""
    chances = np.ones(1)
    for number in range(2, count + 1):
        chances = np.convolve(chances, np.full(number, 1 / number))
    return np.cumsum(chances)


def _normal_tail(deviations: float) -> float:
    """Return the chance that a standard normal number is above this."""
    return math.erfc(deviations / math.sqrt(2)) / 2
