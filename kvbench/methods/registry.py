"""The registry of methods, by name, and what holds for the cases of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from kvbench.caches import strategy
from kvbench.methods.each import EACH
from kvbench.methods.entry import Method
from kvbench.methods.job import Job, JobResult, Row
from kvbench.methods.sampled import SAMPLED
from kvbench.methods.trace import TRACE
from kvbench.plan.case import Case, Task, split
from kvbench.workloads import workload

__all__ = ["METHODS", "cannot", "groups_of", "jobs_of", "rows_of", "with_fallback"]

METHODS: dict[str, Method] = {entry.name: entry for entry in (EACH, TRACE, SAMPLED)}


def groups_of(cases: Iterable[Case]) -> tuple[tuple[Case, ...], ...]:
    """Return the cases that share their rounds, as the method of each says."""
    return tuple(
        group
        for members in split(cases, lambda case: case.method)
        for group in METHODS[members[0].method].groups(members)
    )


def jobs_of(tasks: Sequence[Task]) -> tuple[Job, ...]:
    """Return the jobs of tasks of one group, as its method makes them."""
    return METHODS[tasks[0].case.method].jobs(tasks)


def rows_of(job: Job, result: JobResult) -> tuple[Row, ...]:
    """Return the rows of a job, as read by the method that made it."""
    return METHODS[job.method].rows(job, result)


def with_fallback(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases, those of a group that its method does not hold for with the method `each`.

    All members of a comparison group have one method.
    """
    cases = tuple(cases)
    fallen = {case for group in groups_of(cases) if cannot(group) for case in group}
    found = (dataclasses.replace(c, method="each") if c in fallen else c for c in cases)
    # Two methods may be asked for, and become one.
    return tuple(dict.fromkeys(found))


def cannot(cases: Iterable[Case]) -> tuple[str, ...]:
    """Return the workloads and cache strategies for which the method of their case is not valid."""
    return tuple(dict.fromkeys(name for case in cases for name in _cannot(case)))


def _cannot(case: Case) -> Iterable[str]:
    methods = workload(case.workload).methods
    if methods and case.method not in methods:
        yield case.workload
    elif not METHODS[case.method].can(strategy(case.cache)):
        yield case.cache
