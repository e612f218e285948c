"""The method `trace`: one generation of the longest length; the shorter ones from its stamps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kvbench.analysis.generated import round_key
from kvbench.analysis.trace import can_trace, rows_of_trace
from kvbench.methods.each import EACH
from kvbench.methods.entry import Method
from kvbench.methods.job import Job, JobResult, Row
from kvbench.plan.case import Case, Task, split

__all__ = ["TRACE"]


def groups(cases: Iterable[Case]) -> tuple[tuple[Case, ...], ...]:
    """Return the cases that differ in the cache strategy and in the length alone."""
    return split(cases, round_key)


def jobs(tasks: Sequence[Task]) -> tuple[Job, ...]:
    """Return one job for the tasks that differ in the length alone, in the order of the first."""
    return tuple(
        Job(tuple(sorted(members, key=lambda task: task.new_tokens)), TRACE.name)
        for members in split(tasks, lambda task: replace(task.case, max_new_tokens=1))
    )


def rows(job: Job, result: JobResult) -> tuple[Row, ...]:
    """Return the rows of all lengths; the stamps are in that of the longest.

    Where a process was lost with the stamps, it is not known how far the generation came: then only
    the longest has a row.
    """
    ((whole, times),) = EACH.rows(Job(job.tasks[-1:], EACH.name), result)
    reached = result.times or whole.stage in ("load", "prefill")
    tasks = job.tasks if result.status == "ok" or reached else job.tasks[-1:]
    samples = rows_of_trace(whole, result.times, tasks, result.prefixes, result.architecture)
    return tuple((one, times if one.sample_id == whole.sample_id else ()) for one in samples)


TRACE = Method(
    name="trace",
    description="Shorter lengths are read from the stamps of the longest generation.",
    groups=groups,
    jobs=jobs,
    rows=rows,
    can=can_trace,
)
