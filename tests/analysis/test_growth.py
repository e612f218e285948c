"""Tests of kvbench/analysis/growth.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from kvbench.analysis.growth import Growth, break_evens, growths
from kvbench.analysis.summary import CaseSummary
from tests.fakes import make_summary

LENGTHS = (10, 20, 50, 100, 200, 400, 700, 1000)


def timed(
    time: Callable[[int], float], lengths: Iterable[int] = LENGTHS, **fields: Any
) -> list[CaseSummary]:
    return [
        make_summary(max_new_tokens=n, total_s_median=float(time(n)), **fields) for n in lengths
    ]


def only(cases: Iterable[CaseSummary]) -> Growth:
    (growth,) = growths(cases)
    return growth


def gains(*speedups: float | None, spread: float = 0.1, **fields: Any) -> list[CaseSummary]:
    """Return cached cases of 10, 20, ... new tokens with these speedups and their intervals."""
    return [
        make_summary(
            max_new_tokens=10 * i,
            speedup=value,
            speedup_ci95_low=None if value is None else value - spread,
            speedup_ci95_high=None if value is None else value + spread,
            **fields,
        )
        for i, value in enumerate(speedups, start=1)
    ]


# Exponents


@pytest.mark.parametrize(
    "exponent",
    [
        0.0,
        1.0,
        1.5,
        2.0,
        3.0,
    ],
)
def test_the_exponent_of_a_power_law_is_found(exponent: float) -> None:
    growth = only(timed(lambda n: 0.003 * n**exponent))
    assert growth.exponent == pytest.approx(exponent, abs=1e-9)
    assert growth.exponent_low == pytest.approx(exponent, abs=1e-6)
    assert growth.exponent_high == pytest.approx(exponent, abs=1e-6)


def test_the_exponent_is_fitted_over_the_upper_range() -> None:
    """Constant costs bend the line below; above, the exponent is that of the power law."""
    growth = only(timed(lambda n: 0.5 if n < 200 else 1e-5 * n**2))
    assert growth.fitted_from == 200
    assert growth.exponent == pytest.approx(2.0)


def test_at_least_three_lengths_are_fitted() -> None:
    growth = only(timed(lambda n: n**1.5, (1, 2, 1000)))
    assert growth.fitted_from == 1
    assert growth.exponent == pytest.approx(1.5)


@pytest.mark.parametrize("count", [3, 6])
def test_the_interval_covers_the_true_exponent_as_often_as_it_says(count: int) -> None:
    """600 simulations of n^1.7 with 5 % noise."""
    rng = np.random.default_rng(2)
    lengths = np.linspace(200, 1000, count).astype(int)
    held = 0
    for _ in range(600):
        noise = dict(zip(lengths.tolist(), rng.lognormal(0, 0.05, count), strict=True))
        growth = only(timed(lambda n, noise=noise: n**1.7 * noise[n], lengths.tolist()))
        held += growth.exponent_low <= 1.7 <= growth.exponent_high
    # 570 are expected, plus or minus 5.
    assert 550 <= held <= 590


def test_the_interval_holds_the_exponent() -> None:
    growth = only(timed(lambda n: n * (0.9 if n == 400 else 1.1)))
    assert growth.exponent_low < growth.exponent < growth.exponent_high


# Polynomials


@pytest.mark.parametrize("coefficients", [(0.1, 0.02, 3e-5, 2e-8), (0.0, 0.01, 0.0, 1e-8)])
def test_the_coefficients_of_a_polynomial_are_found(coefficients: tuple[float, ...]) -> None:
    growth = only(timed(lambda n: np.polynomial.Polynomial(coefficients)(n)))
    assert growth.coefficients == pytest.approx(coefficients, rel=1e-6, abs=1e-12)
    assert growth.error == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("points", "degree"), [(3, 1), (4, 2), (5, 3), (6, 3), (8, 3)])
def test_the_degree_leaves_a_point_for_the_error(points: int, degree: int) -> None:
    growth = only(timed(lambda n: 1 + n, LENGTHS[:points]))
    assert len(growth.coefficients) == degree + 1


def test_the_error_is_the_root_mean_square_of_the_relative_errors() -> None:
    times = {10: 1.0, 20: 2.2, 30: 2.9}
    growth = only(timed(times.__getitem__, times))
    a, b = growth.coefficients
    errors = [(a + b * n) / t - 1 for n, t in times.items()]
    assert growth.error == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    # No other line does better.
    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.001), (0, -0.001)):
        worse = [(a + da + (b + db) * n) / t - 1 for n, t in times.items()]
        assert np.mean(np.square(worse)) > growth.error**2


def test_short_lengths_count_as_much_as_long_ones() -> None:
    """Errors are relative: a short time that is 10 % off is as bad as a long one."""
    exact = timed(lambda n: 0.01 + 0.02 * n)
    for index in (0, len(exact) - 1):
        off = list(exact)
        time = off[index].total_s_median
        assert time is not None
        off[index] = make_summary(max_new_tokens=LENGTHS[index], total_s_median=1.1 * time)
        assert only(off).error > 0.005


# Lines


@pytest.mark.parametrize("lengths", [(), (100,), (100, 200)])
def test_fewer_than_three_lengths_have_no_growth(lengths: tuple[int, ...]) -> None:
    assert growths(timed(lambda n: n, lengths)) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "llama"),
        ("weights", "pretrained"),
        ("device", "cuda"),
        ("dtype", "bfloat16"),
        ("attention", "eager"),
        ("cache", "off"),
        ("batch_size", 2),
        ("prompt", "tokens:9"),
    ],
)
def test_cases_that_differ_in_more_than_length_are_lines_of_their_own(
    field: str, value: Any
) -> None:
    cases = [*timed(lambda n: n), *timed(lambda n: n**2, **{field: value})]
    first, second = growths(cases)
    assert (first.exponent, second.exponent) == (pytest.approx(1), pytest.approx(2))
    assert getattr(second.first, field) == value


def test_the_order_of_the_cases_does_not_matter() -> None:
    cases = timed(lambda n: n**1.3 + 4)
    assert only(cases[::-1]) == only(cases)
    assert [case.max_new_tokens for case in only(cases[::-1]).cases] == list(LENGTHS)


def test_a_case_without_a_time_is_left_out() -> None:
    failed = make_summary(max_new_tokens=5000, total_s_median=None, status="oom", samples=0)
    assert only([*timed(lambda n: n), failed]) == only(timed(lambda n: n))


# Break-even


@pytest.mark.parametrize(
    ("speedups", "new_tokens"),
    [
        ((1.5, 2.0, 3.0), 10),
        ((0.8, 1.0, 1.05, 1.5, 2.0), 40),
        ((0.5, 0.9, 1.0), None),
        # Faster, and then not: the last length that is not faster decides.
        ((1.5, 0.9, 1.5, 2.0), 30),
        ((1.5, 2.0, 1.0), None),
        ((2.0,), 10),
        ((1.05,), None),
    ],
)
def test_break_even_is_where_the_gain_begins_to_last(
    speedups: tuple[float, ...], new_tokens: int | None
) -> None:
    (even,) = break_evens(gains(*speedups))
    assert even.new_tokens == new_tokens
    assert len(even.cases) == len(speedups)


def test_what_carries_no_claim_is_no_gain() -> None:
    (wide,) = break_evens(gains(2.0, 2.5, spread=0.9))
    (other_work,) = break_evens(gains(2.0, 2.5, flags="verify_failed:6"))
    assert (wide.new_tokens, other_work.new_tokens) == (None, None)


def test_break_even_is_told_for_each_cached_line() -> None:
    cases = [*gains(1.5, 2.0), *gains(0.5, 1.5, batch_size=8), *gains(1.5, cache="static")]
    assert [even.new_tokens for even in break_evens(cases)] == [10, 20, 10]


def test_cases_without_a_partner_have_no_break_even() -> None:
    assert break_evens(gains(None, None)) == ()
    assert break_evens(timed(lambda n: n, cache="off")) == ()


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_few_rounds_know_nothing_of_the_noise(rounds: int) -> None:
    found = {"speedup_round_min": 1.2, "speedup_round_max": 2.0, "speedup_rounds": rounds}
    (even,) = break_evens([make_summary(samples=rounds, speedup=1.5, **found)])
    assert even.new_tokens is None
    assert even.too_few
    (sure,) = break_evens(gains(0.5))
    assert (sure.new_tokens, sure.too_few) == (None, False)
