"""Tests of kvbench/analysis/gaps.py."""

from __future__ import annotations

import pytest

from kvbench.analysis.gaps import gaps_of


def test_one_stall_shows_in_the_longest_gap_alone() -> None:
    times, now = [], 5.0
    for token in range(201):
        times.append(now)
        now += 3.0 if token == 120 else 0.5
    # The time to the first token is no gap.
    assert gaps_of(times) == pytest.approx(
        {"gap_p50_s": 0.5, "gap_p90_s": 0.5, "gap_p99_s": 0.5, "gap_max_s": 3.0}
    )
    assert gaps_of(times[:1]) == {} == gaps_of([])
