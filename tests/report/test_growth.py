"""Tests of kvbench/report/growth.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from kvbench.analysis.summary import CaseSummary, summarize_cases
from kvbench.report.growth import growth_sentences
from tests.fakes import make_summary
from tests.report.saved import grid


def timed(time: Callable[[int], float], *lengths: int, **fields: Any) -> list[CaseSummary]:
    return [make_summary(max_new_tokens=n, total_s_median=time(n), **fields) for n in lengths]


def test_a_line_is_told_with_exponent_interval_and_polynomial(snapshot: object) -> None:
    (sentence,) = growth_sentences(timed(lambda n: 2 + 0.5 * n, 1000, 2000, 3000))
    assert sentence == snapshot


def test_the_polynomial_has_signs_powers_and_small_numbers() -> None:
    lengths = (100, 200, 300, 400, 500, 600)
    (sentence,) = growth_sentences(
        timed(lambda n: 1 + 0.02 * n - 2e-5 * n**2 + 4e-8 * n**3, *lengths)
    )
    assert "t = 1.00 + 0.0200 n - 2.00e-05 n^2 + 4.00e-08 n^3 s fits 6 lengths" in sentence


def test_a_number_that_is_zero_but_for_rounding_is_left_out() -> None:
    (sentence,) = growth_sentences(timed(lambda n: 0.01 * n, 10, 50, 100))
    assert not re.search(r"e-1\d", sentence)


def test_the_uncached_curve_is_called_polynomial() -> None:
    words = "time grows polynomially, not exponentially"
    off = timed(lambda n: n**2, 10, 20, 30, cache="off")
    assert sum(words in s for s in growth_sentences(off)) == 1
    assert not any(words in s for s in growth_sentences(timed(lambda n: n, 10, 20, 30)))
    assert not any(words in s for s in growth_sentences(off[:2]))


def test_a_batch_is_named_where_it_is_one(snapshot: object) -> None:
    (sentence,) = growth_sentences(timed(lambda n: n, 10, 20, 30, batch_size=8))
    assert sentence == snapshot


@pytest.mark.parametrize(
    "lows",
    [(0.9, 1.2, 1.4), (0.9, 0.9, 0.9)],
)
def test_the_break_even_is_told(lows: tuple[float, ...], snapshot: object) -> None:
    cases = [
        make_summary(
            max_new_tokens=10 * i,
            speedup=low + 0.2,
            speedup_ci95_low=low,
            speedup_ci95_high=low + 0.4,
        )
        for i, low in enumerate(lows, start=1)
    ]
    assert growth_sentences(cases) == snapshot


def test_of_one_length_no_break_even_is_told() -> None:
    assert growth_sentences([make_summary(speedup=4.0, speedup_ci95_low=3.0)]) == []


def test_nothing_is_said_of_nothing() -> None:
    assert growth_sentences([]) == []
    assert growth_sentences(timed(lambda n: n, 10, 20)) == []


def test_a_whole_run_is_told(snapshot: object) -> None:
    sentences = growth_sentences(summarize_cases(grid()))
    assert [s.split(":")[0] for s in sentences] == snapshot


def test_lines_that_differ_in_their_prompt_are_told_apart() -> None:
    sentences = growth_sentences(summarize_cases(grid(prompt=("one", "two"), cache=("dynamic",))))
    assert len(set(sentences)) == 2


def test_one_sample_tells_no_break_even(snapshot: object) -> None:
    one = {"speedup": 4.0, "speedup_round_min": 4.0, "speedup_round_max": 4.0, "speedup_rounds": 1}
    cases = [make_summary(max_new_tokens=tokens, **one) for tokens in (10, 20)]
    (sentence,) = growth_sentences(cases)
    assert sentence == snapshot
