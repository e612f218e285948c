"""Medians, quartiles and intervals, each from scipy or numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

__all__ = ["MIN_FOR_INTERVAL", "ratio_interval", "ratio_of_medians"]

MIN_FOR_INTERVAL = 5
"""Below this many samples in an arm no interval is given: a bootstrap of fewer knows too little."""

_RESAMPLES = 2000


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of `above` over median of `below`."""
    return float(np.median(above) / np.median(below))


def ratio_interval(
    above: Sequence[float], below: Sequence[float], *, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the ratio of medians, the arms resampled on their own.

    The same samples give the same interval: the seed is fixed. None where an arm has fewer than
    `MIN_FOR_INTERVAL` samples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13;
    `scipy.stats.bootstrap`.
    """
    if min(len(above), len(below)) < MIN_FOR_INTERVAL:
        return None
    result = stats.bootstrap(
        (above, below),
        _ratio,
        paired=False,
        vectorized=True,
        method="percentile",
        confidence_level=level,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _ratio(above: np.ndarray, below: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(np.median(above, axis=axis) / np.median(below, axis=axis))
