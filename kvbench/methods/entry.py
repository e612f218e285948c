"""What a method says of itself: which cases go together, their jobs, and the rows of a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kvbench.caches import CacheStrategy
from kvbench.methods.job import Job, JobResult, Row
from kvbench.plan.case import Case, Task

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """A way to measure cases by generations.

    Attributes:
        name: as in the column `method`.
        description: one line for help and docs.
        groups: the cases that share their rounds, as tuples; each case is in one of them. The
            members of a comparison group are together.
        jobs: the jobs of one round of a group, in execution order, from the tasks of its members in
            a shuffled order. Each task is in one job.
        rows: one row for each task of a job, in their order. A task without a row is left for
            another job; the longest task always has one.
        can: whether it works for a cache strategy. A comparison group with a strategy for which it
            does not work is measured with the method `each`.
        body: the function in kvbench/measure/ that carries out the samples of a job, as
            `module:function`; None for one generation. A string, which the worker resolves, because
            the entry must not import torch.
    """

    name: str
    description: str
    groups: Callable[[Iterable[Case]], tuple[tuple[Case, ...], ...]]
    jobs: Callable[[Sequence[Task]], tuple[Job, ...]]
    rows: Callable[[Job, JobResult], tuple[Row, ...]]
    can: Callable[[CacheStrategy], bool] = lambda entry: True
    body: str | None = None
