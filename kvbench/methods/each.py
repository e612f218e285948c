"""The method `each`: every length is a generation of its own. The reference, and the default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from kvbench.analysis.gaps import gaps_of
from kvbench.methods.entry import Method
from kvbench.methods.job import Job, JobResult, Row
from kvbench.plan.case import Case, Task, split
from kvbench.records.sample import sample_of

__all__ = ["EACH"]


def groups(cases: Iterable[Case]) -> tuple[tuple[Case, ...], ...]:
    """Return the comparison groups: the cases that differ only in the cache strategy."""
    return split(cases, lambda case: case.pair_key)


def jobs(tasks: Sequence[Task]) -> tuple[Job, ...]:
    """Return one job for each generation, in the order of their tasks.

    A task is a generation, but the turns of a conversation belong to one.
    """
    return tuple(
        Job(tuple(sorted(turns, key=lambda task: task.case.turn)), EACH.name)
        for turns in split(tasks, lambda task: dataclasses.replace(task.case, turn=1).key)
    )


def rows(job: Job, result: JobResult) -> tuple[Row, ...]:
    """Return the one row of a job, or one for each turn that it was asked for.

    The turns after a failed one have its failure. Where a process was lost with its results, it is
    not known how far the conversation came: then only the last turn has a row.
    """
    if not result.turns:
        return (_row(job.task, result),)
    found = [_row(task, _of_turn(result.turns, task.case.turn)) for task in job.tasks]
    name = job.task.sample_id
    return tuple((dataclasses.replace(one, generation_id=name), times) for one, times in found)


def _of_turn(turns: Sequence[JobResult], turn: int) -> JobResult:
    """Return the outcome of a turn; for one that was not reached, the failure before it."""
    if turn <= len(turns):
        return turns[turn - 1]
    failed = turns[-1]
    own = {name: value for name, value in failed.fields.items() if name not in _OF_A_TURN}
    return dataclasses.replace(failed, fields=own, times=())


_OF_A_TURN = ("prompt_tokens", "cached_positions")


def _row(task: Task, result: JobResult) -> Row:
    """Return a row; only a successful generation has times in it."""
    sample = sample_of(task, status=result.status, started_at=result.started_at, **result.fields)
    if result.status != "ok":
        return sample, result.times
    if task.phase == "memory" or result.total_s is None:
        # A polled pass is slower than a timed run: its times are not a measurement.
        return sample, ()
    total, first, steps = result.total_s, result.times[0], len(result.times) - 1
    timed = dataclasses.replace(
        sample,
        total_s=total,
        ttft_s=first,
        itl_s=(total - first) / steps if steps else None,
        tokens_per_s=task.case.batch_size * task.new_tokens / total,
        **gaps_of(result.times),
    )
    return timed, result.times


EACH = Method(
    name="each",
    description="Every length is a generation of its own.",
    groups=groups,
    jobs=jobs,
    rows=rows,
)
