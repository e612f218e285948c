"""The stopping rule, on hand-made times."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbench.measure.stopping import StoppingRule, relative_spread

RULE = StoppingRule()
NOISY = [1.0, 2.0] * 20


def test_the_defaults_are_those_of_the_design() -> None:
    assert dataclasses.asdict(RULE) == {
        "repeats": None,
        "min_repeats": 6,
        "max_repeats": 30,
        "min_seconds": 3.0,
        "max_spread": 0.05,
        "max_seconds": 600.0,
    }


def test_the_first_sample_is_always_wanted() -> None:
    assert not RULE.done([])
    assert not StoppingRule(max_seconds=0.0).done([])
    assert not StoppingRule(repeats=1).done([])


@pytest.mark.parametrize("times", [[1.0] * 2, [0.001] * 2, [400.0] * 2])
def test_a_fixed_number_is_not_done_before(times: list[float]) -> None:
    assert not StoppingRule(repeats=3).done(times)


@pytest.mark.parametrize("times", [[1.0] * 3, [0.001, 5.0, 0.1], [400.0] * 3])
def test_a_fixed_number_is_done_with_whatever_came(times: list[float]) -> None:
    assert StoppingRule(repeats=3).done(times)


def test_a_fixed_number_may_pass_the_maximum() -> None:
    assert not StoppingRule(repeats=50).done(NOISY)


def test_six_close_samples_of_three_seconds_are_enough() -> None:
    assert RULE.done([0.5] * 6)


def test_five_are_too_few() -> None:
    assert not RULE.done([1.0] * 5)


def test_less_than_three_seconds_are_too_short() -> None:
    assert not RULE.done([0.4] * 7)
    assert RULE.done([0.4] * 8)


def test_wide_samples_are_too_few() -> None:
    assert not RULE.done([1.0, 1.1, 1.2, 1.2, 1.3, 1.4])
    assert RULE.done([1.0, 1.1, 1.1, 1.1, 1.1, 1.4])


def test_a_spread_of_just_the_limit_is_too_wide() -> None:
    times = [1.0, 1.0, 1.5, 1.5, 1.5, 2.0, 2.0, 2.0]
    assert relative_spread(times) == pytest.approx(0.625 / 1.5)
    assert not StoppingRule(max_spread=relative_spread(times)).done(times)
    assert StoppingRule(max_spread=0.42).done(times)


def test_thirty_are_enough_however_wide() -> None:
    assert not RULE.done(NOISY[:29])
    assert RULE.done(NOISY[:30])


def test_thirty_are_enough_however_short() -> None:
    assert not RULE.done([0.001] * 29)
    assert RULE.done([0.001] * 30)


def test_no_sample_is_begun_that_would_pass_the_cap() -> None:
    assert not RULE.done([250.0])
    assert not RULE.done([300.0])
    assert RULE.done([301.0])
    assert RULE.done([250.0, 250.0])


def test_the_median_foretells_the_next_sample() -> None:
    rule = StoppingRule(max_seconds=10.0)
    assert not rule.done([1.0, 1.0, 6.0])
    assert rule.done([1.0, 3.0, 4.0])


def test_a_pair_goes_on_until_both_arms_have_enough() -> None:
    assert not RULE.done([1.0] * 6, [0.4] * 6)
    assert RULE.done([1.0] * 8, [0.4] * 8)


def test_an_arm_that_is_behind_catches_up_first() -> None:
    assert not RULE.done([1.0] * 30, [0.5] * 29)
    assert not StoppingRule(repeats=3).done([1.0] * 3, [1.0] * 2)
    assert not RULE.done([1.0], [])


def test_an_arm_that_may_not_go_on_ends_the_pair() -> None:
    assert RULE.done([350.0], [1.0])
    # Even when behind: it would exceed its limit.
    assert RULE.done([350.0], [1.0] * 2)


def test_limits_can_be_set() -> None:
    rule = StoppingRule(min_repeats=2, max_repeats=4, min_seconds=0.1)
    assert not rule.done([1.0])
    assert rule.done([1.0, 1.0])
    assert not rule.done([1.0, 2.0, 1.0])
    assert rule.done([1.0, 2.0, 1.0, 2.0])


def test_the_spread_is_the_interquartile_range_over_the_median() -> None:
    assert relative_spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((4 - 2) / 3)
    assert relative_spread([7.0]) == 0.0


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=40), st.floats(0.1, 1000))
def test_the_spread_has_no_unit(times: list[float], scale: float) -> None:
    scaled = [scale * one for one in times]
    assert relative_spread(scaled) == pytest.approx(relative_spread(times), rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(1e-6, 1e4), min_size=0, max_size=40))
def test_a_case_ends_between_one_sample_and_the_maximum(times: list[float]) -> None:
    taken: list[float] = []
    for one in times:
        if RULE.done(taken):
            break
        taken.append(one)
    assert len(taken) <= 30
    assert len(taken) >= min(len(times), 1)
