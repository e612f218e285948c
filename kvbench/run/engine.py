"""What a sweep asks of whatever does the measuring: this process, a child, or a fake in tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kvbench.case import Group, ModelKey, Task
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.sample import Sample

__all__ = ["Engine"]


class Engine(Protocol):
    """Opens one model at a time and runs tasks on it. All that passes is plain data."""

    @property
    def needs_memory_pass(self) -> bool:
        """Whether the open model needs an untimed pass per case to read its memory."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines for people about the open model's device."""

    def check(self, groups: Iterable[Group]) -> None:
        """Raise UserError for what cannot be measured at all, before anything is."""

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        """Load a model in place of the one that is open."""

    def measure(self, task: Task) -> tuple[Sample, tuple[float, ...]]:
        """Run a task: its sample and the seconds to each new token."""

    def close(self) -> None:
        """Free the open model."""
