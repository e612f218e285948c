"""Tests of kvbench/run/rounds.py: which rounds are complete, and which count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbench.records.sample import Round, Sample, round_of
from kvbench.run.rounds import (
    MOST_COLD_ROUNDS,
    SharedRounds,
    complete_rounds,
    counted_rounds,
)
from tests.fakes import make_case, make_task, timed_sample

OFF, DYNAMIC = make_case(cache="off"), make_case()


def rows(case: object, *taken: tuple[Round, float]) -> list[Sample]:
    return [
        timed_sample(make_task(case, repeat, round=number), seconds, session=session, worker=worker)
        for repeat, ((session, worker, number), seconds) in enumerate(taken)
    ]


def members(
    off: Sequence[tuple[Round, float]], dynamic: Sequence[tuple[Round, float]]
) -> list[list[Sample]]:
    return [rows(OFF, *off), rows(DYNAMIC, *dynamic)]


def even(session: int, worker: int, *seconds: float, start: int = 0) -> list[tuple[Round, float]]:
    """Rounds one after another in one process."""
    return [((session, worker, start + n), one) for n, one in enumerate(seconds)]


def test_a_round_is_complete_when_all_members_have_it() -> None:
    both = members(even(0, 0, 1, 1, 1), even(0, 0, 1, 1))
    assert complete_rounds(both) == ((0, 0, 0), (0, 0, 1))
    assert complete_rounds([]) == ()
    assert complete_rounds(both[:1]) == ((0, 0, 0), (0, 0, 1), (0, 0, 2))


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_another_session_process_or_number_is_another_round(other: Round) -> None:
    assert complete_rounds(members([((0, 0, 0), 1)], [(other, 1)])) == ()


def test_a_cold_round_does_not_count() -> None:
    both = members(even(0, 0, 20.2, 6.7, 6.6), even(0, 0, 6.4, 6.5, 6.2))
    assert counted_rounds(both) == ((0, 0, 1), (0, 0, 2))


def test_with_one_later_sample_nothing_is_known_to_be_cold() -> None:
    both = members(even(0, 0, 20.2, 6.7), even(0, 0, 21.4, 6.5))
    assert counted_rounds(both) == ((0, 0, 0), (0, 0, 1))


def test_in_each_process_the_first_can_be_cold_twice_a_session() -> None:
    taken = [
        one
        for session in (0, 1)
        for worker in range(4)
        for one in even(session, worker, 9, 1, 1, start=3 * worker)
    ]
    both = members(taken, taken)
    left_out = set(complete_rounds(both)) - set(counted_rounds(both))
    assert left_out == {(0, 0, 0), (0, 1, 3), (1, 0, 0), (1, 1, 3)}
    assert MOST_COLD_ROUNDS == 2


def test_a_cold_sample_of_an_incomplete_round_uses_nothing_up() -> None:
    off = [*even(0, 0, 9, 1, 1), *even(0, 1, 9, 1, 1, start=3), *even(0, 2, 9, 1, 1, start=6)]
    dynamic = [
        *even(0, 0, 1, 1, 1)[1:],
        *even(0, 1, 1, 1, 1, start=3),
        *even(0, 2, 1, 1, 1, start=6),
    ]
    both = members(off, dynamic)
    assert set(complete_rounds(both)) - set(counted_rounds(both)) == {(0, 1, 3), (0, 2, 6)}


KEYS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 5)), unique=True, max_size=12
)
SECONDS = st.sampled_from([1.0, 1.25, 9.0])


@given(KEYS, KEYS, st.data())
def test_what_counts_is_complete_and_little_is_left_out(
    off: list[Round], dynamic: list[Round], data: st.DataObject
) -> None:
    both = members(
        [(key, data.draw(SECONDS)) for key in sorted(off)],
        [(key, data.draw(SECONDS)) for key in sorted(dynamic)],
    )
    complete, counted = complete_rounds(both), counted_rounds(both)
    assert set(complete) == set(off) & set(dynamic)
    assert [one for one in complete if one in counted] == list(counted)
    for session in (0, 1):
        left_out = [one for one in complete if one[0] == session and one not in counted]
        assert len(left_out) <= MOST_COLD_ROUNDS
        # Only the first of a process.
        for one in left_out:
            assert any(
                one == round_of(next(s for s in samples if round_of(s)[:2] == one[:2]))
                for samples in both
            )


@given(KEYS, KEYS, st.data())
def test_rounds_that_are_kept_up_to_date_are_those_of_all_samples(
    off: list[Round], dynamic: list[Round], data: st.DataObject
) -> None:
    whole = members(
        [(key, data.draw(SECONDS)) for key in sorted(off)],
        [(key, data.draw(SECONDS)) for key in sorted(dynamic)],
    )
    so_far: list[list[Sample]] = [[], []]
    rounds = SharedRounds(so_far)
    # In execution order: round after round, and within a round member after member.
    for sample in sorted((s for samples in whole for s in samples), key=round_of):
        so_far[sample.cache == "dynamic"].append(sample)
        if data.draw(st.booleans()):
            check(rounds, so_far)
    check(rounds, so_far)


def check(rounds: SharedRounds, so_far: Sequence[Sequence[Sample]]) -> None:
    seconds = [{round_of(s): s.total_s or 0.0 for s in samples} for samples in so_far]
    complete, counted = complete_rounds(so_far), counted_rounds(so_far)
    assert tuple(rounds.complete) == complete
    assert [list(times) for times in rounds.times] == [[s[r] for r in counted] for s in seconds]
    assert list(rounds.used_s) == [sum(s[r] for r in complete) for s in seconds]


def test_a_sample_costs_as_much_however_many_came_before() -> None:
    class Counting(list[Sample]):
        reads = 0

        def __getitem__(self, index: object) -> Any:
            self.reads += 1
            return super().__getitem__(index)  # type: ignore[index]

        def __iter__(self) -> Any:
            raise AssertionError("all samples are read again")

    rounds = SharedRounds([(off := Counting()), (dynamic := Counting())])
    both = members(even(0, 0, *[1.0] * 50), even(0, 0, *[1.0] * 50))
    for one, other in zip(*both, strict=True):
        off.append(one)
        dynamic.append(other)
        assert len(rounds.times[0]) == one.round + 1
    assert (off.reads, dynamic.reads) == (50, 50)
