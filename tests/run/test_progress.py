"""Tests of kvbench/run/progress.py: the state derived from the rows of earlier starts."""

from __future__ import annotations

from typing import Any

import pytest

from kvbench.measure.stopping import StoppingRule
from kvbench.plan.case import Case, Task
from kvbench.records.sample import STATUSES, Sample, sample_of
from kvbench.run.progress import TRIED_AGAIN, CaseProgress, progress_of
from tests.fakes import arm, make_case, make_task, timed_sample

CASE = make_case()
THREE = StoppingRule(repeats=3)


def row(phase: Any = "measure", repeat: int = 0, attempt: int = 0, status: Any = "ok") -> Sample:
    task = Task(CASE, phase, repeat, repeat, 16, attempt)
    return timed_sample(task, 0.5) if status == "ok" else sample_of(task, status=status)


def of(*samples: Sample, again: Any = TRIED_AGAIN) -> CaseProgress:
    return progress_of([CASE], samples, THREE, again)[CASE]


def next_ids(progress: CaseProgress) -> tuple[str, str]:
    """Return the ids of the next warm-up and counted sample, without the case's part."""
    tasks = (progress.task("warmup", 0, 16), progress.task("measure", len(progress.measured), 100))
    first, second = (task.sample_id.removeprefix(CASE.id) for task in tasks)
    return first, second


# From rows


@pytest.mark.parametrize("method", ["trace", "sampled"])
def test_stopping_looks_at_every_length_that_shares_the_rounds(method: str) -> None:
    rule = StoppingRule(min_repeats=6, max_repeats=30, min_seconds=0.1, max_spread=0.05)
    short, long = (make_case(method=method, max_new_tokens=tokens) for tokens in (10, 100))
    calm, wild = [1.0] * 6, [1.0, 2.0] * 3

    def ended(*times: list[float]) -> set[bool]:
        rows = [row for pair in zip((short, long), times, strict=True) for row in arm(*pair)]
        return {one.ended for one in progress_of([short, long], rows, rule).values()}

    assert ended(calm, calm) == {True}
    assert ended(wild, calm) == ended(calm, wild) == {False}


@pytest.mark.parametrize("phase", ["warmup", "memory", "measure"])
@pytest.mark.parametrize("status", [s for s in STATUSES if s != "ok"])
def test_a_failure_ends_its_case_unless_it_is_tried_again(phase: str, status: str) -> None:
    failed = row(phase, status=status)
    progress = of(failed)
    again = status in TRIED_AGAIN
    assert (progress.ended, progress.failure) == (not again, None if again else failed)


def test_of_several_attempts_the_last_counts() -> None:
    progress = of(row(status="crashed"), row(attempt=1, status="crashed"), row(attempt=2))
    assert [sample.attempt for sample in progress.measured] == [2]
    assert progress.failure is None
    assert next_ids(progress) == ("-w000", "-s001")
    assert progress.task("measure", 0, 16).attempt == 3


def test_an_earlier_failure_that_was_tried_again_does_not_end_the_case() -> None:
    tried = [row(status="oom"), row(attempt=1), row(repeat=1)]
    progress = of(*tried)
    assert (progress.ended, progress.failure, len(progress.measured)) == (False, None, 2)


def test_a_later_failure_ends_a_case_that_was_fine() -> None:
    failed = row("warmup", attempt=1, status="oom")
    progress = of(row("warmup"), row(), failed)
    assert (progress.ended, progress.failure) == (True, failed)


def test_a_memory_pass_is_known_unless_it_failed() -> None:
    assert of(row("warmup"), row("memory")).memory_known
    assert not of(row("warmup"), row()).memory_known
    assert not of(row("memory", status="crashed")).memory_known


def test_the_time_used_is_that_of_the_counted_samples() -> None:
    samples = [row("warmup"), row(), row(repeat=1, status="crashed"), row("warmup", attempt=1)]
    assert of(*samples).used_s == 0.5


def test_an_arm_whose_partner_failed_goes_on_by_itself() -> None:
    off = make_case(cache="off")
    failed = sample_of(make_task(off, 1), status="oom")
    samples = [*arm(off, [1.0]), failed, *arm(CASE, [0.5] * 2)]
    found = progress_of([off, CASE], samples, THREE)
    assert (found[off].ended, found[CASE].ended) == (True, False)
    found = progress_of([off, CASE], [*samples, timed_sample(make_task(CASE, 2), 0.5)], THREE)
    assert (found[off].ended, found[CASE].ended) == (True, True)


def test_rows_of_cases_that_are_no_longer_planned_are_passed_over() -> None:
    assert list(progress_of([CASE], arm(make_case(batch_size=7), [0.5]), THREE)) == [CASE]


# During a sweep


def test_what_is_only_remembered_does_not_count() -> None:
    progress = CaseProgress(CASE, THREE)
    progress.remember(row(status="oom"))
    assert (progress.ended, progress.failure, progress.measured) == (False, None, [])
    assert next_ids(progress) == ("-w000", "-s000-2")


# Losses and rounds


def lost(repeat: int = 0, attempt: int = 0) -> Sample:
    return row(repeat=repeat, attempt=attempt, status="crashed")


def taken(case: Case, *rounds: tuple[int, int, int], seconds: float = 0.5) -> list[Sample]:
    return [
        timed_sample(Task(case, "measure", number, repeat, 16), seconds, session=one, worker=worker)
        for repeat, (one, worker, number) in enumerate(rounds)
    ]


def test_rounds_that_are_not_shared_are_taken_again_by_all() -> None:
    # One SIGKILL left 8 samples and 1, and after a resume the two shared one round.
    off = make_case(cache="off")
    samples = [
        *taken(off, *((0, 0, n) for n in range(3))),
        *taken(CASE, (0, 0, 0), (1, 0, 1), (1, 0, 2)),
    ]
    found = progress_of([off, CASE], samples, THREE)
    assert [len(one.measured) for one in found.values()] == [3, 3]
    assert [len(one.counted) for one in found.values()] == [1, 1]
    assert [one.ended for one in found.values()] == [False, False]
    assert [one.next_round for one in found.values()] == [3, 3]
    assert [one.used_s for one in found.values()] == [0.5, 0.5]
    # The next sample has a new number, and no earlier one is measured again.
    assert next_ids(found[CASE])[1] == "-s003"
    more = [(2, 0, 3), (2, 0, 4)]
    for case in (off, CASE):
        first = [s for s in samples if s.case_id == case.id]
        samples += taken(case, *((0, 0, 0),) * 3, *more)[len(first) :]
    found = progress_of([off, CASE], samples, THREE)
    assert [one.ended for one in found.values()] == [True, True]


def test_a_cold_round_is_one_too_few() -> None:
    cold = [*taken(CASE, (0, 0, 0), seconds=2.0), *taken(CASE, *((0, 0, n) for n in range(3)))[1:]]
    progress = of(*cold)
    assert [sample.repeat for sample in progress.counted] == [1, 2]
    assert not progress.ended
    # It took time nevertheless.
    assert progress.used_s == 3.0


def test_a_case_does_not_end_on_a_row_that_waits_for_another_attempt() -> None:
    # Its partner failed, and without it there are enough rounds.
    off = make_case(cache="off")
    alone = taken(CASE, *((0, n, n) for n in range(3)))
    gone = sample_of(make_task(off), status="oom")
    progress = progress_of([off, CASE], [*alone, lost(3), gone], THREE)[CASE]
    assert len(progress.counted) == 3
    assert not progress.ended
    progress.note(timed_sample(progress.task("measure", 3, 16), 0.5))
    assert progress.ended


def test_a_lost_warmup_is_owed_until_it_is_taken() -> None:
    progress = of(row("warmup", status="crashed"))
    assert progress.owes_warmup
    progress.note(row("warmup", attempt=1))
    assert not progress.owes_warmup
