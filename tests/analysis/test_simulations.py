"""Tests of the statistics against scipy, and on simulations with a known truth; fixed seeds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from kvbench.analysis.compare import Comparison, Side, compare
from kvbench.analysis.statistics import (
    bootstrap_medians,
    geometric_mean,
    holm,
    mann_whitney,
    ratio_interval,
)
from scripts.judge_statistics import (
    COVERAGE,
    KINDS,
    MOST_FALSE,
    MOST_WIDENING,
    ROUNDS,
    TOO_FEW,
    Kind,
    judge,
    summaries,
)
from tests.fakes import by_column, make_task, timed_sample

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

_PLAIN = timed_sample(make_task(), 1.0)


def noise(share: float) -> Draw:
    """Return times around 1 with normal noise."""
    return lambda rng, size: 1 + share * rng.standard_normal(size)


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Return times as on a busy machine: mostly near 1, some much longer."""
    return rng.lognormal(0.0, 0.4, size)


def two_speeds(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Return times of a machine with two clock speeds."""
    return np.where(rng.random(size) < 0.5, 1.0, 1.5) * (1 + 0.01 * rng.standard_normal(size))


def compared(a: np.ndarray, b: np.ndarray) -> Sequence[Comparison]:
    """Compare times `[rows, samples]`: each row is a separate case."""
    rows, unmatched = compare(_side("a", a), _side("b", b))
    assert len(rows) == len(a)
    assert unmatched == ()
    return rows


def verdicts(
    draw: Draw, calls: int, sizes: tuple[int, int], *, truth: float = 1.0, rows: int = 1
) -> list[list[Comparison]]:
    """Return comparisons in which B truly takes `truth` times the time of A."""
    rng = np.random.default_rng(20260102)
    return [
        list(compared(draw(rng, (rows, sizes[0])), truth * draw(rng, (rows, sizes[1]))))
        for _ in range(calls)
    ]


def counted(calls: list[list[Comparison]]) -> Counter[str | None]:
    return Counter(row.verdict for rows in calls for row in rows)


def _side(name: str, times: np.ndarray) -> Side:
    cases, repeats = np.indices(times.shape).reshape(2, -1).tolist()
    plain = {name: values * times.size for name, values in by_column([_PLAIN]).items()}
    varied = {
        "case_id": list(map(str, cases)),
        "max_new_tokens": [case + 1 for case in cases],
        "repeat": repeats,
        "total_s": times.ravel().tolist(),
    }
    return Side(name, (plain | varied,))


# False alarms


def test_equal_sides_are_found_different_no_more_often_than_the_level() -> None:
    """2,000 comparisons; the noise is far above the threshold, so only the test protects."""
    found = counted(verdicts(skewed, 2000, (10, 10)))
    assert found["slower"] + found["faster"] <= 20
    # Otherwise the test would be so conservative that it finds nothing.
    assert found["slower"]
    assert found["faster"]


@pytest.mark.parametrize(
    ("draw", "sizes"), [(two_speeds, (12, 8)), (skewed, (6, 20)), (two_speeds, (30, 5))]
)
def test_other_noise_and_sizes_keep_the_level_too(draw: Draw, sizes: tuple[int, int]) -> None:
    found = counted(verdicts(draw, 400, sizes))
    # Where the true rate is the level, 1 of 1,000 seeds would exceed this.
    assert found["slower"] + found["faster"] <= stats.binom.ppf(0.999, 400, 0.01)


def test_equal_sides_with_little_noise_are_never_found_different() -> None:
    found = counted(verdicts(noise(0.015), 200, (10, 10)))
    assert found["slower"] == found["faster"] == 0


def test_of_several_rows_none_is_found_different_more_often_than_the_level() -> None:
    """The level applies to a whole call: 300 calls of five equal rows."""
    calls = verdicts(skewed, 300, (10, 10), rows=5)
    wrong = sum(any(row.verdict in ("slower", "faster") for row in rows) for rows in calls)
    assert wrong <= 3
    # The correction is needed: judging each row alone would be wrong more often.
    alone = sum(any(_alone(row, rows) < 0.01 for row in rows) for rows in calls)
    assert alone > 3


def _alone(row: Comparison, rows: list[Comparison]) -> float:
    """Return Holm's smallest p-value without the correction; for the other rows at most that."""
    assert row.p_value is not None
    return row.p_value / len(rows)


# Finding what is there


@pytest.mark.parametrize(
    ("truth", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")], ids=["slower", "faster"]
)
@pytest.mark.parametrize("rows", [1, 8])
def test_ten_per_cent_with_three_per_cent_noise_is_found_at_ten_samples(
    truth: float, verdict: str, rows: int
) -> None:
    found = counted(verdicts(noise(0.03), 240 // rows, (10, 10), truth=truth, rows=rows))
    assert found[verdict] >= 0.95 * found.total()
    assert set(found) <= {verdict, "unclear"}


def test_other_numbers_of_samples_on_each_side_find_it_too() -> None:
    found = counted(verdicts(noise(0.03), 100, (7, 25), truth=1.1))
    assert found["slower"] >= 0.95 * found.total()


def test_equal_sides_with_little_noise_are_the_same() -> None:
    found = counted(verdicts(noise(0.01), 200, (10, 10)))
    assert found["same"] >= 0.99 * found.total()


def test_a_difference_under_the_threshold_is_never_slower() -> None:
    """2 % with 0.3 % noise is significant, but does not matter."""
    found = counted(verdicts(noise(0.003), 100, (10, 10), truth=1.02))
    assert found["same"] == found.total()


# How many samples would tell


@pytest.mark.parametrize(
    ("share", "truth", "start"),
    [
        (0.15, 1.25, 6),
        (0.08, 1.15, 6),
        (0.03, 1.1, 5),
        (0.06, 1.0, 10),
        (0.1, 1.0, 12),
    ],
)
def test_as_many_samples_as_are_said_to_be_needed_mostly_tell(
    share: float, truth: float, start: int
) -> None:
    first = verdicts(noise(share), 120, (start, start), truth=truth)
    needed = [row.samples_needed for (row,) in first if row.samples_needed is not None]
    assert len(needed) >= 20
    rng = np.random.default_rng(5)
    draw = noise(share)
    again = [compared(draw(rng, (1, n)), truth * draw(rng, (1, n)))[0].verdict for n in needed]
    settled = sum(verdict != "unclear" for verdict in again)
    # Nine in ten if the medians stay; rows that were unclear by chance do not reach it.
    assert settled > 0.7 * len(needed)


def test_the_number_promised_to_few_samples_can_tell() -> None:
    """The smallest exact p-value of 5 against 5 is 0.0079: with two rows, Holm's is above 0.01."""
    few = compared(np.ones((6, 3)), np.full((6, 3), 2.0))
    (needed,) = {row.samples_needed for row in few}
    assert needed is not None
    assert {row.verdict for row in compared(np.ones((6, needed)), np.full((6, needed), 2.0))} == {
        "slower"
    }


def test_more_samples_are_needed_than_there_are() -> None:
    for (row,) in verdicts(noise(0.1), 60, (10, 10)):
        assert row.samples_needed is None or 10 < row.samples_needed <= 1000
        assert row.verdict == "unclear" or row.samples_needed is None


# Intervals


@pytest.mark.parametrize(("size", "least"), [(6, 0.86), (10, 0.88), (30, 0.91)])
def test_the_interval_of_a_ratio_covers_it_about_as_often_as_it_says(
    size: int, least: float
) -> None:
    """1,000 simulations. A percentile bootstrap of few samples covers less than the 95 % it names:
    about 91 % of six a side, 93 % of ten. The lower bounds here are what is promised.
    """
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(1000):
        above, below = 1.3 * rng.lognormal(0, 0.1, size), rng.lognormal(0, 0.1, size)
        low, high = ratio_interval(above.tolist(), below.tolist()) or (0.0, 0.0)
        held += low <= 1.3 <= high
    assert least * 1000 <= held < 1000


@pytest.mark.parametrize("size", [1, 2, 5, 6, 9, 10, 25, 40])
def test_the_medians_are_distributed_as_those_of_a_brute_force_bootstrap(size: int) -> None:
    values = np.random.default_rng(size).lognormal(0, 0.5, size)
    rng = np.random.default_rng(1)
    brute = np.median(rng.choice(values, (20_000, size)), axis=1)
    # The largest distance of two distribution functions of 2,000 and 20,000 values is below this
    # in 99.9 % of samples.
    limit = 1.95 * math.sqrt(1 / 2000 + 1 / 20_000)
    assert stats.ks_2samp(bootstrap_medians(values.tolist()), brute).statistic < limit


@pytest.mark.parametrize("size", [7, 12])
def test_the_medians_are_distributed_as_those_of_scipy(size: int) -> None:
    values = np.random.default_rng(size).lognormal(0, 0.5, size)
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=20_000, rng=np.random.default_rng(2)
    ).bootstrap_distribution
    limit = 1.95 * math.sqrt(1 / 2000 + 1 / 20_000)
    assert stats.ks_2samp(bootstrap_medians(values.tolist(), 1), theirs).statistic < limit


@pytest.mark.parametrize("size", [5, 11])
def test_each_value_is_the_median_as_often_as_the_binomial_says(size: int) -> None:
    """Of an odd number: the median is at most the k-th smallest if more than half fall there."""
    medians = bootstrap_medians(list(range(size)))
    half = (size + 1) // 2
    for k in range(size):
        exact = stats.binom.sf(half - 1, size, (k + 1) / size)
        assert np.mean(medians <= k) == pytest.approx(exact, abs=0.04)


def test_two_streams_are_independent() -> None:
    values = np.random.default_rng(3).lognormal(0, 0.5, 10).tolist()
    first, second = bootstrap_medians(values, 0), bootstrap_medians(values, 1)
    assert abs(stats.spearmanr(first, second).statistic) < 0.1
    assert np.array_equal(first, bootstrap_medians(values, 0))


# Speed-ups within a run


TABLES = 300
"""A tenth of what docs/statistics.md reports, with correspondingly wider bounds."""

FEW = ROUNDS[:2]
"""Without the 30 rounds, which take most of the time, where fewer are as hard."""


def bounds(low: float, high: float) -> tuple[float, float]:
    """Return what 1 of 10,000 draws of `TABLES` would exceed if the true rate is the bound."""
    least, most = stats.binom.ppf([0.0001, 0.9999], TABLES, [low, high])
    return float(least / TABLES), float(most / TABLES)


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_interval_of_a_speedup_covers_it_and_few_claims_are_false(
    kind: Kind, uneven: bool
) -> None:
    low, high = bounds(*COVERAGE)
    for rounds in FEW if uneven else ROUNDS:
        cell = judge(kind, rounds, TABLES, 20260102, uneven=uneven)
        assert low <= cell.coverage <= high
        assert cell.claimed <= bounds(0.0, MOST_FALSE)[1]
        # A first sample that is slow by chance may count as cold, and then a round is missing.
        assert cell.intervals >= 0.95 * cell.tables


@pytest.mark.parametrize("rounds", TOO_FEW)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_few_rounds_give_no_interval_and_no_claim(kind: Kind, rounds: int) -> None:
    for truth in (1.0, 3.0):
        cell = judge(kind, rounds, 100, 1, truth=truth)
        assert (cell.intervals, cell.claims) == (0, 0)


@pytest.mark.parametrize("rounds", FEW)
@pytest.mark.parametrize("number", [i for i, k in enumerate(KINDS) if k.drift is not np.ones])
def test_drift_does_not_widen_the_interval(number: int, rounds: int) -> None:
    drifting = judge(KINDS[number], rounds, 200, 3)
    at_rest = judge(dataclasses.replace(KINDS[number], drift=np.ones), rounds, 200, 4)
    assert drifting.width <= MOST_WIDENING * at_rest.width


@pytest.mark.parametrize(("rounds", "least"), [(6, 0.85), (10, 0.97)])
@pytest.mark.parametrize("number", [i for i, k in enumerate(KINDS) if k.drift is not np.ones])
def test_ten_per_cent_is_seen_through_a_drift(number: int, rounds: int, least: float) -> None:
    assert judge(KINDS[number], rounds, 200, 5, truth=1.1).claimed >= least


def test_a_strategy_that_stopped_early_is_not_compared_with_a_machine_that_slowed_later() -> None:
    """Five of thirty rounds are shared and the machine is 10 % slower from the sixth on."""
    slower = dataclasses.replace(
        KINDS[0], drift=lambda rounds: np.where(np.arange(rounds) < 5, 1.0, 1.1)
    )
    cell = judge(slower, 5, 100, 6, uneven=True)
    assert (cell.intervals, cell.claims) == (0, 0)
    enough = judge(slower, 10, 300, 7, uneven=True)
    assert enough.coverage >= bounds(*COVERAGE)[0]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_times_without_a_trend_are_seldom_said_to_have_one(rounds: int) -> None:
    rng = np.random.default_rng(8)
    found = summaries(KINDS[1], rounds, 400, rng)
    flagged = sum("trend" in (case.flags or "") for case in found)
    # 1 % is the level; of 400, 1 of 1,000 draws would exceed this.
    assert flagged <= stats.binom.ppf(0.999, 400, 0.01)


def test_a_ramp_is_a_trend_from_ten_rounds_on() -> None:
    (ramp,) = [kind for kind in KINDS if kind.name.startswith("ramped")]
    found = summaries(ramp, 10, 100, np.random.default_rng(9))
    assert sum("trend" in (case.flags or "") for case in found) >= 95


# Tests and means


@pytest.mark.parametrize(("first", "second"), [(5, 5), (10, 10), (4, 30), (100, 100)])
def test_the_p_value_is_that_of_scipy_exact(first: int, second: int) -> None:
    rng = np.random.default_rng(first)
    a, b = rng.normal(0, 1, first).tolist(), rng.normal(0.4, 1, second).tolist()
    expected = stats.mannwhitneyu(a, b, alternative="two-sided", method="exact").pvalue
    assert mann_whitney(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_p_value_of_many_samples_is_that_of_scipy_asymptotic() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 101).tolist(), rng.normal(0.2, 1, 100).tolist()
    exact, asymptotic = (
        stats.mannwhitneyu(a, b, method=method).pvalue for method in ("exact", "asymptotic")
    )
    assert mann_whitney(a, b) == asymptotic
    assert asymptotic == pytest.approx(exact, rel=0.1)


def test_the_p_value_is_that_of_all_arrangements() -> None:
    """By definition: the fraction of the ways to split nine values that are at least as extreme."""
    a, b = [1.0, 2.5, 3.0, 4.5], [2.0, 3.5, 5.0, 6.0, 7.0]

    def u(first: Sequence[float], second: Sequence[float]) -> float:
        return abs(sum(x > y for x in first for y in second) - len(first) * len(second) / 2)

    pool = [*a, *b]
    ways = [
        u(chosen, [x for x in pool if x not in chosen])
        for chosen in itertools.combinations(pool, len(a))
    ]
    expected = sum(way >= u(a, b) for way in ways) / len(ways)
    assert mann_whitney(a, b) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # statsmodels.stats.multitest.multipletests(..., method="holm"), and R's p.adjust.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.3], [0.3]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_gives_published_values(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_what_the_procedure_in_steps_rejects(seed: int) -> None:
    """Holm's own words: from the smallest on, against level over what is left; stop at the first
    that does not pass."""
    p_values = (np.random.default_rng(seed).random(12) ** 4).tolist()
    adjusted = holm(p_values)
    for level in (0.001, 0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(np.argsort(p_values).tolist()):
            if p_values[index] >= level / (len(p_values) - step):
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p < level} == rejected


def test_the_geometric_mean_of_inverse_ratios_is_its_inverse() -> None:
    ratios = np.random.default_rng(8).lognormal(0, 1, 9).tolist()
    assert geometric_mean(ratios) == pytest.approx(stats.gmean(ratios))
    assert geometric_mean([1 / r for r in ratios]) == pytest.approx(1 / geometric_mean(ratios))


def test_ties_do_not_make_false_alarms() -> None:
    """Times rounded by a coarse clock: 1,000 equal comparisons with three values."""
    rng = np.random.default_rng(9)
    wrong = sum(
        mann_whitney(a, b) < 0.01 for a, b in rng.choice([1.0, 1.1, 1.2], (1000, 2, 10)).tolist()
    )
    assert wrong <= 10


def test_a_case_of_its_own_has_a_row_of_its_own() -> None:
    """The simulations rely on this: one row per case, with the times that were drawn."""
    a, b = np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]), np.array([[2.0] * 3, [3.0] * 3])
    rows = compared(a, b)
    assert [(row.a_total_s, row.b_total_s) for row in rows] == [(2.0, 2.0), (6.0, 3.0)]
