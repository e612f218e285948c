"""The registry of methods, by name."""

from __future__ import annotations

from kvbench.methods.each import EACH
from kvbench.methods.entry import Method
from kvbench.methods.job import Job, JobResult, Row

__all__ = ["METHODS", "rows_of"]

METHODS: dict[str, Method] = {entry.name: entry for entry in (EACH,)}


def rows_of(job: Job, result: JobResult) -> tuple[Row, ...]:
    """Return the rows of a job, as read by the method that made it."""
    return METHODS[job.method].rows(job, result)
