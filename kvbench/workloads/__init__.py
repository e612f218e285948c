"""The entries of all workloads: what is generated, and the rows that it yields. Torch-free."""

from __future__ import annotations

from kvbench.workloads.entry import Workload
from kvbench.workloads.registry import SINGLE, WORKLOADS, workload

__all__ = ["SINGLE", "WORKLOADS", "Workload", "workload"]
