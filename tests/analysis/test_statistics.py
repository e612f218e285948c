"""Tests of kvbench/analysis/statistics.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kvbench.analysis.statistics import MIN_FOR_INTERVAL, ratio_interval, ratio_of_medians

RNG = np.random.default_rng(20260102)
ABOVE = RNG.lognormal(1.0, 0.2, 30).tolist()
BELOW = RNG.lognormal(0.0, 0.3, 40).tolist()


@pytest.mark.parametrize(
    ("above", "below", "ratio"),
    [([4.0], [2.0], 2.0), ([1.0, 2.0, 9.0], [4.0], 0.5), ([1.0, 3.0], [1.0, 1.0, 9.0], 2.0)],
)
def test_the_ratio_is_of_medians(above: list[float], below: list[float], ratio: float) -> None:
    assert ratio_of_medians(above, below) == ratio


def test_the_ratio_agrees_with_numpy() -> None:
    assert ratio_of_medians(ABOVE, BELOW) == np.median(ABOVE) / np.median(BELOW)


def test_the_interval_is_that_of_scipy() -> None:
    result = stats.bootstrap(
        (ABOVE, BELOW),
        lambda a, b, axis=-1: np.median(a, axis=axis) / np.median(b, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    # Another seed and ten times the resamples: the ends agree to about the Monte Carlo error.
    assert ratio_interval(ABOVE, BELOW) == pytest.approx((result.low, result.high), rel=0.02)


def test_the_interval_is_that_of_a_bootstrap_written_out() -> None:
    rng = np.random.default_rng(7)
    above = rng.choice(ABOVE, (20_000, len(ABOVE)))
    below = rng.choice(BELOW, (20_000, len(BELOW)))
    ratios = np.median(above, axis=1) / np.median(below, axis=1)
    expected = tuple(np.percentile(ratios, [2.5, 97.5]))
    assert ratio_interval(ABOVE, BELOW) == pytest.approx(expected, rel=0.02)


def test_the_same_samples_give_the_same_interval() -> None:
    assert ratio_interval(ABOVE, BELOW) == ratio_interval(ABOVE, BELOW)


def test_the_random_numbers_of_others_are_left_alone() -> None:
    np.random.seed(3)
    state = np.random.get_state()[1].tolist()
    ratio_interval(ABOVE, BELOW)
    assert np.random.get_state()[1].tolist() == state


def test_the_unit_of_time_does_not_matter() -> None:
    scaled = ratio_interval([1000 * x for x in ABOVE], [1000 * x for x in BELOW])
    assert scaled == pytest.approx(ratio_interval(ABOVE, BELOW))


def test_a_lower_level_gives_a_narrower_interval() -> None:
    wide, narrow = ratio_interval(ABOVE, BELOW), ratio_interval(ABOVE, BELOW, level=0.5)
    assert wide is not None and narrow is not None
    assert wide[0] < narrow[0] < ratio_of_medians(ABOVE, BELOW) < narrow[1] < wide[1]


def test_samples_that_do_not_vary_give_an_interval_of_no_width() -> None:
    assert ratio_interval([6.0] * 5, [2.0] * 5) == (3.0, 3.0)


@pytest.mark.parametrize(("above", "below"), [(4, 40), (30, 4), (0, 40), (1, 1)])
def test_too_few_samples_in_either_arm_give_no_interval(above: int, below: int) -> None:
    assert ratio_interval(ABOVE[:above], BELOW[:below]) is None


def test_five_samples_an_arm_are_enough() -> None:
    assert MIN_FOR_INTERVAL == 5
    assert ratio_interval(ABOVE[:5], BELOW[:5]) is not None


@pytest.mark.parametrize(("ratio", "spread"), [(3.0, 0.1), (1.0, 0.4)])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(ratio: float, spread: float) -> None:
    """300 simulations of 20 samples an arm, skewed as times are; the true ratio is known."""
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(300):
        above = ratio * rng.lognormal(0.0, spread, 20)
        below = rng.lognormal(0.0, spread, 20)
        low, high = ratio_interval(above.tolist(), below.tolist()) or (0.0, 0.0)
        held += low <= ratio <= high
    assert held >= 270
    # An interval that always holds it would be too wide to be of use.
    assert held < 300
