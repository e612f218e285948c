"""Tests of kvbench/run/search.py: a pure function."""

from __future__ import annotations

import pytest

from kvbench.run.search import largest_that_fits


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 37, 64, 100, 4095])
def test_the_largest_size_that_fits_is_found_and_no_size_is_tried_twice(limit: int) -> None:
    tried: list[int] = []
    found = largest_that_fits(lambda n: tried.append(n) or n <= limit, first=1, most=4096)
    assert (found.largest, found.fails_at) == (limit, limit + 1)
    assert len(tried) == len(set(tried)) == found.attempts <= 25
    assert max(tried) <= max(2 * limit, 1)


def test_the_search_ends_at_the_most_that_is_allowed() -> None:
    found = largest_that_fits(lambda n: True, first=1, most=100)
    assert (found.largest, found.fails_at) == (100, None)
    assert largest_that_fits(lambda n: n <= 3, first=8, most=3).largest == 3


@pytest.mark.parametrize("limit", [3, 15, 37, 1000, 4000])
def test_large_sizes_are_found_to_a_part_of_them_in_few_attempts(limit: int) -> None:
    found = largest_that_fits(lambda n: n <= limit, first=limit // 2 + 1, most=4096, parts=16)
    assert found.fails_at is not None and found.attempts <= 8
    assert found.largest <= limit < found.fails_at <= found.largest + max(1, found.largest // 16)


@pytest.mark.parametrize("limit", [5, 63, 64, 500, 1000])
def test_a_step_leaves_at_most_its_own_width_open(limit: int) -> None:
    found = largest_that_fits(lambda n: n <= limit, first=64, most=1 << 20, step=16)
    assert found.fails_at is not None
    assert found.largest <= limit < found.fails_at <= found.largest + 16
