"""The bodies of the workloads: each carries out a job on an open model.

A body is a function from an `OpenJob` to its result, plain data. The entry names it; see
kvbench/workloads/.
"""

from __future__ import annotations

from typing import cast

from kvbench.bodies import named_body
from kvbench.measure.workloads.job import Body, OpenJob
from kvbench.workloads import Workload

__all__ = ["Body", "OpenJob", "body_of"]


def body_of(entry: Workload) -> Body:
    """Return the body that a workload names."""
    return cast("Body", named_body(entry.body))
