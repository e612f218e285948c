"""How rows come out of generations: the entries of all methods. Torch-free."""

from __future__ import annotations

from kvbench.methods.entry import Method
from kvbench.methods.job import Job, JobResult, Row
from kvbench.methods.registry import (
    METHODS,
    cannot,
    groups_of,
    jobs_of,
    rows_of,
    with_fallback,
)

__all__ = [
    "METHODS",
    "Job",
    "JobResult",
    "Method",
    "Row",
    "cannot",
    "groups_of",
    "jobs_of",
    "rows_of",
    "with_fallback",
]
