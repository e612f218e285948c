"""The method `each`: every length is a generation of its own. The reference, and the default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from kvbench.methods.entry import Method
from kvbench.methods.job import Job, JobResult, Row
from kvbench.plan.case import Case, Task, split
from kvbench.records.sample import sample_of

__all__ = ["EACH"]


def groups(cases: Iterable[Case]) -> tuple[tuple[Case, ...], ...]:
    """Return the comparison groups: the cases that differ only in the cache strategy."""
    return split(cases, lambda case: case.pair_key)


def jobs(tasks: Sequence[Task]) -> tuple[Job, ...]:
    """Return one job for each task, in their order."""
    return tuple(Job((task,), EACH.name) for task in tasks)


def rows(job: Job, result: JobResult) -> tuple[Row, ...]:
    """Return the one row of a job; only a successful generation has times in it."""
    (task,) = job.tasks
    sample = sample_of(task, status=result.status, started_at=result.started_at, **result.fields)
    if result.status != "ok":
        return ((sample, result.times),)
    if task.phase == "memory" or result.total_s is None:
        # A polled pass is slower than a timed run: its times are not a measurement.
        return ((sample, ()),)
    total, first, steps = result.total_s, result.times[0], len(result.times) - 1
    timed = dataclasses.replace(
        sample,
        total_s=total,
        ttft_s=first,
        itl_s=(total - first) / steps if steps else None,
        tokens_per_s=task.case.batch_size * task.new_tokens / total,
    )
    return ((timed, result.times),)


EACH = Method(
    name="each",
    description="Every length is a generation of its own.",
    groups=groups,
    jobs=jobs,
    rows=rows,
)
