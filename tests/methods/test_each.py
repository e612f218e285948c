"""Tests of kvbench/methods/each.py, and of what holds for every method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvbench.methods import METHODS, Job, JobResult, rows_of
from kvbench.methods.each import EACH
from tests.fakes import make_case, make_task

TASK = make_task(make_case(batch_size=3), repeat=2, new_tokens=4)
TIMES = (0.5, 0.75, 1.0, 1.25)


def result(**fields: Any) -> JobResult:
    known: dict[str, Any] = {
        "status": "ok",
        "started_at": "now",
        "fields": {"new_tokens": 4, "weights_bytes": 7},
        "total_s": 1.5,
        "times": TIMES,
    }
    return JobResult(**(known | fields))


def job(**changes: Any) -> Job:
    (made,) = EACH.jobs([replace(TASK, **changes)])
    return made


def test_a_task_is_a_job_and_a_row() -> None:
    ((sample, times),) = rows_of(job(), result())
    assert (sample.sample_id, sample.round, sample.method) == (TASK.sample_id, 2, "each")
    assert (sample.status, sample.started_at, sample.weights_bytes) == ("ok", "now", 7)
    assert times == TIMES


def test_the_columns_of_time_follow_from_the_stamps() -> None:
    ((sample, _),) = rows_of(job(), result())
    assert (sample.total_s, sample.ttft_s) == (1.5, 0.5)
    assert sample.itl_s == pytest.approx(1 / 3)
    assert sample.tokens_per_s == 3 * 4 / 1.5


def test_one_token_has_no_time_between_tokens() -> None:
    one = result(total_s=0.5, times=(0.5,))
    ((sample, _),) = rows_of(job(new_tokens=1), one)
    assert (sample.ttft_s, sample.itl_s) == (0.5, None)


def test_a_pass_for_memory_has_no_times() -> None:
    ((sample, times),) = rows_of(job(phase="memory"), result())
    assert (sample.total_s, sample.ttft_s, sample.tokens_per_s, times) == (None, None, None, ())
    assert sample.weights_bytes == 7


def test_a_failure_has_what_was_read_and_no_time() -> None:
    fields = {"stage": "decode", "error": "No memory.", "oom_bytes": 9}
    failed = JobResult("oom", "now", fields)
    ((sample, times),) = rows_of(job(), failed)
    assert (sample.status, sample.stage, sample.error) == ("oom", "decode", "No memory.")
    assert (sample.oom_bytes, sample.total_s, times) == (9, None, ())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_measures_each_task_once(name: str) -> None:
    method = METHODS[name]
    assert method.name == name and method.description.endswith(".")
    cases = [
        make_case(cache=cache, max_new_tokens=tokens)
        for tokens in (10, 20)
        for cache in ("off", "dynamic")
    ]
    groups = method.groups(cases)
    assert sorted(case.id for group in groups for case in group) == sorted(c.id for c in cases)
    for group in groups:
        of_pairs = {case.pair_key for case in group}
        assert {case for case in cases if case.pair_key in of_pairs} == set(group)
        tasks = [make_task(case) for case in group]
        jobs = method.jobs(tasks)
        made = [task for job in jobs for task in job.tasks]
        assert sorted(made, key=tasks.index) == tasks
        assert {job.method for job in jobs} == {name}
