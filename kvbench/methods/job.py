"""Job and result: one generation to run and its outcome, as plain data for the pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvbench.analysis.sampled import Measured
from kvbench.analysis.trace import Prefix
from kvbench.plan.case import Task
from kvbench.records.sample import Sample, Status
from kvbench.theory.architecture import Architecture

__all__ = ["Job", "JobResult", "Row"]

Row = tuple[Sample, tuple[float, ...]]
"""A row of samples.csv, and the seconds to each of its tokens for tokens.csv."""


@dataclass(frozen=True, slots=True)
class Job:
    """One generation, or what its method makes in place of it.

    Attributes:
        tasks: the rows that it yields, the longest last. They differ only in the number of new
            tokens and share one phase.
        method: the method that made it and that reads its result.
    """

    tasks: tuple[Task, ...]
    method: str

    @property
    def task(self) -> Task:
        """The task that is carried out: the longest one, which passes through the others."""
        return self.tasks[-1]


@dataclass(frozen=True, slots=True)
class JobResult:
    """The outcome of a generation.

    Attributes:
        status: `ok`, or how it failed.
        started_at: UTC, ISO 8601.
        fields: columns of samples.csv that were read over the whole generation; for a failure, its
            `stage` and `error`.
        total_s: seconds of the whole generation, or of measuring the steps; None if it failed.
        times: seconds from its start to each new token; of one that failed, as far as it came.
        prefixes: what is known of the shorter lengths that it passed through.
        architecture: of the model, for the bytes of their caches; None where theory cannot read it.
        steps: the steps at chosen positions; None for a generation.
    """

    status: Status
    started_at: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    total_s: float | None = None
    times: tuple[float, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    architecture: Architecture | None = None
    steps: Measured | None = None
