"""Tests of kvbench/analysis/cold.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from kvbench.analysis.cold import cold_rows, cold_starts
from kvbench.records.sample import Sample, sample_of
from tests.fakes import arm, by_column, make_case, make_task, timed_sample

CASE = make_case()


def found(samples: Sequence[Sample]) -> list[float | None]:
    """Return the times of the cold samples; both ways of reading must agree."""
    ids = cold_starts(samples)
    counted = [
        row
        for row, s in enumerate(samples)
        if s.phase == "measure" and s.status == "ok" and s.total_s is not None
    ]
    assert {samples[row].sample_id for row in cold_rows(by_column(samples), counted)} == ids
    return [s.total_s for s in samples if s.sample_id in ids]


@pytest.mark.parametrize(
    ("times", "cold"),
    [
        ([20.2, 6.7, 6.5], [20.2]),
        ([1.51, 1.0, 1.0], [1.51]),
        # Not above 1.5 times the slowest of the others.
        ([1.5, 1.0, 1.0], []),
        ([20.0, 6.0, 14.0], []),
        # Too few later ones.
        ([20.2, 6.7], []),
        ([20.2], []),
        ([], []),
        # Not the first.
        ([6.0, 20.0, 6.0, 6.0], []),
        ([0.1, 6.0, 6.0, 6.0], []),
    ],
)
def test_the_first_far_above_at_least_two_later_ones_is_cold(
    times: list[float], cold: list[float]
) -> None:
    assert found(arm(CASE, times)) == cold


def test_each_case_session_and_process_has_a_first_sample() -> None:
    other = make_case(cache="off")
    samples = [
        *arm(CASE, [9.0, 1.0, 1.0]),
        *arm(other, [7.0, 1.0, 1.0]),
        *(
            dataclasses.replace(s, worker=1, sample_id=f"{s.sample_id}-w")
            for s in arm(CASE, [8.0, 1.0, 1.0])
        ),
        *(
            dataclasses.replace(s, session=1, sample_id=f"{s.sample_id}-s")
            for s in arm(CASE, [6.0, 1.0, 1.0])
        ),
    ]
    assert found(samples) == [9.0, 7.0, 8.0, 6.0]


def test_warm_ups_and_failures_are_no_samples_of_it() -> None:
    warm = timed_sample(make_task(CASE, phase="warmup"), 99.0)
    failed = sample_of(make_task(CASE, 5), status="oom", error="full")
    assert found([warm, *arm(CASE, [9.0, 1.0, 1.0]), failed]) == [9.0]
    assert found([warm, *arm(CASE, [1.0, 1.0, 1.0])]) == []
