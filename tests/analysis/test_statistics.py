"""Tests of kvbench/analysis/statistics.py."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from kvbench.analysis import statistics
from kvbench.analysis.statistics import (
    MIN_FOR_INTERVAL,
    PAIRED_LEVEL,
    least_rounds,
    least_samples,
    line_fit,
    outliers,
    paired_ratio,
    ratio_interval,
    ratio_of_medians,
    signed_rank,
    trend,
)

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
    assert ratio_interval([6.0] * 6, [2.0] * 6) == (3.0, 3.0)


@pytest.mark.parametrize(("above", "below"), [(5, 40), (30, 5), (0, 40), (1, 1)])
def test_too_few_samples_in_either_arm_give_no_interval(above: int, below: int) -> None:
    assert ratio_interval(ABOVE[:above], BELOW[:below]) is None


def test_six_samples_a_side_are_enough() -> None:
    assert MIN_FOR_INTERVAL == 6
    assert ratio_interval(ABOVE[:6], BELOW[:6]) is not None


@pytest.mark.parametrize(("ratio", "spread"), [(3.0, 0.1), (1.0, 0.4)])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(ratio: float, spread: float) -> None:
    """300 simulations of 20 samples per side, skewed as times are; the true ratio is known."""
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(300):
        above = ratio * rng.lognormal(0.0, spread, 20)
        below = rng.lognormal(0.0, spread, 20)
        low, high = ratio_interval(above.tolist(), below.tolist()) or (0.0, 0.0)
        held += low <= ratio <= high
    assert held >= 270
    # An interval that always contains it would be too wide to be useful.
    assert held < 300


# Pairs


def drawn(count: int, seed: int = 0, ratio: float = 1.3) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng([seed, count])
    below = rng.lognormal(0.0, 0.2, count)
    return (ratio * below * rng.lognormal(0.0, 0.1, count)).tolist(), below.tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 30])
def test_the_paired_estimate_is_the_median_of_the_walsh_averages(count: int) -> None:
    above, below = drawn(count)
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    averages = [(x + y) / 2 for x, y in itertools.combinations_with_replacement(logs, 2)]
    found = paired_ratio(above, below)
    assert (found.pairs, found.ratio) == (count, pytest.approx(math.exp(np.median(averages))))


def test_of_six_pairs_the_interval_is_the_range_of_their_ratios() -> None:
    above, below = drawn(6)
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    found = paired_ratio(above, below)
    assert (found.low, found.high) == (pytest.approx(min(ratios)), pytest.approx(max(ratios)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_fewer_than_six_pairs_have_no_interval(count: int) -> None:
    found = paired_ratio(*drawn(count))
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize(
    ("count", "place"),
    # Hollander, Wolfe and Chicken, table of the signed-rank distribution: the largest place from
    # either end whose two-sided tail is at most 4 %.
    [(6, 1), (7, 2), (8, 4), (10, 8), (12, 13), (20, 51), (30, 133)],
)
def test_the_interval_ends_at_the_places_of_the_exact_distribution(count: int, place: int) -> None:
    above, below = drawn(count)
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    averages = sorted((x + y) / 2 for x, y in itertools.combinations_with_replacement(logs, 2))
    found = paired_ratio(above, below)
    assert found.low == pytest.approx(math.exp(averages[place - 1]))
    assert found.high == pytest.approx(math.exp(averages[-place]))


@pytest.mark.parametrize("count", [6, 9, 12])
def test_the_confidence_of_the_interval_is_that_of_all_signs(count: int) -> None:
    """By definition: of the 2^n ways to sign the ranks, this fraction lies within."""
    sums = np.array(
        [sum(chosen) for chosen in itertools.product(*((0, rank) for rank in range(1, count + 1)))]
    )
    place = statistics._signed_rank_place(count, PAIRED_LEVEL)
    inside = np.mean((sums >= place) & (sums <= count * (count + 1) / 2 - place))
    assert inside >= PAIRED_LEVEL
    closer = np.mean((sums > place) & (sums < count * (count + 1) / 2 - place))
    assert closer < PAIRED_LEVEL


@pytest.mark.parametrize("count", [6, 7, 10, 30, 90])
def test_the_interval_and_the_test_agree(count: int) -> None:
    """The test rejects a ratio at its level if and only if the ratio is outside the interval."""
    above, below = drawn(count)
    found = paired_ratio(above, below)
    assert found.low is not None and found.high is not None
    for ratio in (found.low * 0.999, found.low * 1.001, found.high * 0.999, found.high * 1.001):
        rejected = signed_rank([a / ratio for a in above], below) <= 1 - PAIRED_LEVEL
        assert rejected == (not found.low <= ratio <= found.high)


@pytest.mark.parametrize("count", [1, 4, 6, 11, 40, 150])
def test_the_paired_p_value_is_that_of_scipy_exact(count: int) -> None:
    above, below = drawn(count, ratio=1.05)
    logs = np.log(np.array(above) / below)
    expected = stats.wilcoxon(logs, method="exact").pvalue
    assert signed_rank(above, below) == pytest.approx(expected)


def test_the_paired_p_value_of_many_rounds_is_that_of_scipy_approximate() -> None:
    above, below = drawn(300, ratio=1.02)
    logs = np.log(np.array(above) / below)
    expected = stats.wilcoxon(logs, method="approx", correction=True).pvalue
    assert signed_rank(above, below) == pytest.approx(expected)


def test_pairs_without_a_difference_are_no_evidence() -> None:
    assert signed_rank([2.0] * 9, [2.0] * 9) == 1.0
    assert signed_rank([], []) == 1.0
    found = paired_ratio([2.0] * 9, [2.0] * 9)
    assert (found.ratio, found.low, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("count", [6, 31, 120])
def test_many_pairs_are_estimated_as_few_are(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    few = paired_ratio(*drawn(count))
    monkeypatch.setattr(statistics, "_DIRECT_UP_TO", 1)
    many = paired_ratio(*drawn(count))
    assert (many.ratio, many.low, many.high) == pytest.approx((few.ratio, few.low, few.high))


def test_the_places_of_many_pairs_go_on_from_those_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = statistics._signed_rank_place(200, PAIRED_LEVEL)
    statistics._signed_rank_place.cache_clear()
    monkeypatch.setattr(statistics, "_EXACT_SIGNED_RANK_UP_TO", 199)
    assert abs(statistics._signed_rank_place(200, PAIRED_LEVEL) - exact) <= 3
    statistics._signed_rank_place.cache_clear()


def test_swapping_the_sides_of_pairs_inverts_the_ratio() -> None:
    above, below = drawn(11)
    there, back = paired_ratio(above, below), paired_ratio(below, above)
    assert there.low is not None and there.high is not None
    assert (back.ratio, back.low, back.high) == pytest.approx(
        (1 / there.ratio, 1 / there.high, 1 / there.low)
    )
    assert signed_rank(above, below) == signed_rank(below, above)


def test_what_both_of_a_pair_share_does_not_matter() -> None:
    above, below = drawn(12)
    slower = np.linspace(1.0, 3.0, 12)
    drifting = paired_ratio((slower * above).tolist(), (slower * below).tolist())
    assert dataclasses.astuple(drifting) == pytest.approx(
        dataclasses.astuple(paired_ratio(above, below))
    )


@pytest.mark.parametrize(("level", "count"), [(0.05, 6), (0.01, 8), (0.001, 11)])
def test_the_fewest_rounds_are_those_whose_least_p_value_is_below(level: float, count: int) -> None:
    assert least_rounds(level) == count
    assert signed_rank([2.0] * count, [1.0] * count) < level
    if count > MIN_FOR_INTERVAL:
        assert signed_rank([2.0] * (count - 1), [1.0] * (count - 1)) >= level


def test_the_fewest_samples_are_six() -> None:
    assert least_samples(0.01) == 6


# Trends and outliers


@pytest.mark.parametrize("count", [2, 5, 6, 13, 40, 60])
def test_the_p_value_of_a_trend_is_that_of_scipy_exact(count: int) -> None:
    values, _ = drawn(count)
    expected = stats.kendalltau(range(count), values, method="exact").pvalue
    assert trend(values).p_value == pytest.approx(expected)


def test_the_p_value_of_a_long_trend_is_near_that_of_scipy() -> None:
    values, _ = drawn(200)
    expected = stats.kendalltau(range(200), values, method="asymptotic").pvalue
    assert trend(values).p_value == pytest.approx(expected, rel=0.02)


def test_a_step_midway_is_a_change_of_its_size() -> None:
    assert trend([1.0] * 5 + [1.3] * 5).change == pytest.approx(0.3)


def test_a_trend_says_how_much_the_times_change_from_first_to_last() -> None:
    rising = trend([1.0, 1.1, 1.21, 1.331, 1.4641, 1.61051])
    # The medians of the first and of the last two are four steps of 10 % apart.
    assert rising.change == pytest.approx(1.1**4 - 1)
    assert rising.p_value == pytest.approx(2 / math.factorial(6))
    falling = trend([2.0, 1.0])
    assert falling.change == pytest.approx(-0.5)


def test_equal_times_have_no_trend() -> None:
    assert trend([3.0] * 20) == statistics.Trend(0.0, 1.0)
    assert trend([3.0]) == statistics.Trend(0.0, 1.0)
    assert trend([1.0, 1.0, 1.0, 1.0, 1.0, 2.0]).p_value > 0.4


def test_a_trend_of_very_many_times_is_found_quickly() -> None:
    found = trend(np.linspace(1.0, 2.0, 50_000).tolist())
    assert found.change == pytest.approx((1 + 5 / 6) / (1 + 1 / 6) - 1, rel=0.01)
    assert found.p_value < 1e-9


@pytest.mark.parametrize(
    ("times", "places"),
    [
        ([5.0, 5.1, 20.0, 4.9, 5.05], [2]),
        ([5.0, 5.1, 1.0, 4.9, 5.05], [2]),
        ([2.6, 12.99, 2.6, 2.61], [1]),
        ([9.0, 5.0, 5.1, 5.2, 9.2, 5.1, 5.0, 5.0], [0, 4]),
        # Far for times that lie so close, but still of little consequence.
        ([5.0, 5.01, 6.0, 5.0, 5.02], []),
        # Wide, as all are.
        ([1.0, 2.0, 3.0, 4.0, 6.0], []),
        # One of two: which?
        ([5.0, 20.0], []),
        ([5.0], []),
        ([], []),
    ],
)
def test_outliers_are_far_from_all_the_others(times: list[float], places: list[int]) -> None:
    assert outliers(times) == places


@pytest.mark.parametrize("seed", range(30))
def test_outliers_are_those_of_the_definition_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logs = 0.4 * rng.standard_t(2, int(rng.integers(3, 12)))
    expected = []
    for place, value in enumerate(logs):
        low, middle, high = np.percentile(np.delete(logs, place), [25, 50, 75])
        reach = 3 * (high - low)
        far = abs(value - middle) > math.log(1.5)
        if far and not low - reach <= value <= high + reach:
            expected.append(place)
    assert outliers(np.exp(logs).tolist()) == expected


@pytest.mark.parametrize("count", [3, 4, 5, 6, 20, 401])
@pytest.mark.parametrize("certainty", [0.975, 0.99])
def test_a_line_is_that_of_scipy(count: int, certainty: float) -> None:
    x = np.log(np.arange(1, count + 1) * 10.0)
    y = 2.0 * x + np.random.default_rng(count).normal(size=count)
    fit = stats.linregress(x, y)
    margin = stats.t.ppf(certainty, count - 2) * fit.stderr
    assert line_fit(x, y, certainty) == pytest.approx((fit.slope, margin), rel=1e-12)


def test_a_line_through_equal_values_is_certain() -> None:
    assert line_fit([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], 0.975) == (0.0, 0.0)
