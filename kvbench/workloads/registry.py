"""The registry of workloads, by name."""

from __future__ import annotations

from kvbench.caches.parameters import split_parameters
from kvbench.workloads.entry import Workload

__all__ = ["SINGLE", "WORKLOADS", "workload"]

SINGLE = "single"
"""The workload of runs that predate workloads."""

_BODIES = "kvbench.measure.workloads"

WORKLOADS: dict[str, Workload] = {
    entry.name: entry
    for entry in (
        Workload(
            name=SINGLE,
            description="One prompt, and one generation that continues it.",
            body=f"{_BODIES}.{SINGLE}:run",
            rows="a generation",
        ),
    )
}


def workload(name: str) -> Workload:
    """Return a workload by its name, with its parameters: `chat:turns=8`.

    Raises:
        UserError: no workload has that name, or a parameter is wrong.
    """
    head, texts = split_parameters("workload", name, WORKLOADS)
    return WORKLOADS[head].with_settings(texts)
