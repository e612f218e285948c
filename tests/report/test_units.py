"""Tests of kvbench/report/units.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.report.units import MIB, about, mib, seconds, significant, times


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (0.0123, "0.0123"),
        (0.000123, "0.000123"),
        (0.1, "0.100"),
        (0.5, "0.500"),
        (1, "1.00"),
        (1.23456, "1.23"),
        (9.996, "10.0"),
        (12.34, "12.3"),
        (99.94, "99.9"),
        (99.97, "100"),
        (100, "100"),
        (123.4, "123"),
        (1234.5, "1234"),
        (1234567.0, "1234567"),
        (-1.5, "-1.50"),
        (-250, "-250"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize("value", [9.9e-5, 1e-5, 3.8e-5, 1e-9, 1e12])
def test_powers_of_ten_are_never_shown(value: float) -> None:
    assert "e" not in significant(value)


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(st.floats(1e-4, 1e9) | st.floats(99.9, 100.1) | st.floats(0.99, 1.01))
def test_what_is_shown_is_the_number_to_half_a_percent_and_ends_in_a_digit(value: float) -> None:
    text = significant(value)
    assert float(text) == pytest.approx(value, rel=0.0051)
    assert text[-1].isdigit()


@pytest.mark.parametrize(
    ("value", "text"),
    [(5.321, "5.32 s"), (0.85, "850 ms"), (0.0012345, "1.23 ms"), (1, "1.00 s"), (3600, "3600 s")],
)
def test_times_are_in_seconds_or_milliseconds(value: float, text: str) -> None:
    assert seconds(value) == text


def test_bytes_are_in_mebibytes() -> None:
    assert MIB == 1024 * 1024
    assert (mib(0), mib(MIB), mib(70.2 * MIB), mib(1 << 30)) == ("0", "1.00", "70.2", "1024")


def test_a_ratio_has_a_cross() -> None:
    assert (times(3.4219), times(0.5), times(120)) == ("3.42x", "0.500x", "120x")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "about 1 s"),
        (7.4, "about 7 s"),
        (43, "about 40 s"),
        (100, "about 2 min"),
        (3599, "about 60 min"),
        (5.67 * 3600, "about 5.7 h"),
        (100 * 3600, "about 100 h"),
    ],
)
def test_a_predicted_time_is_not_more_exact_than_it_can_be(value: float, text: str) -> None:
    assert about(value) == text
