"""The interface of an engine, which does the measuring: a worker process, or a fake in tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from kvbench.methods import Job, JobResult
from kvbench.plan.case import Case, Group, ModelKey
from kvbench.plan.texts import Text
from kvbench.records.check import Check
from kvbench.records.environment import Environment
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.inspection import Inspection
from kvbench.records.quality import Quality, QualitySize
from kvbench.records.rates import Rates
from kvbench.theory.shapes import Shapes

__all__ = ["Engine", "Interrupted"]


class Interrupted(Exception):
    """The sweep was asked to stop while the engine did something not worth waiting for."""


class Engine(Protocol):
    """Open one model at a time and run jobs on it. Only plain data is exchanged.

    Whatever happens to the measuring process is returned as a value: a result, a failed load, a
    check. All methods except `run` and `close` may raise Interrupted.
    """

    @property
    def open_model(self) -> ModelKey | None:
        """The open model; None again once its process was lost."""

    @property
    def process(self) -> int:
        """A number for the measuring process; a new one is started when it is lost."""

    def environment(self) -> Environment:
        """Return the machine and the software that measure."""

    def probe(self, device: str) -> Rates:
        """Measure the rates of a present device now."""

    def free_bytes(self, device: str) -> int:
        """Return the free memory of a present device now."""

    def shapes(self, config: Mapping[str, Any]) -> Shapes:
        """Return what the cache of a model keeps, read by building the model without its data."""

    def check(self, groups: Iterable[Group]) -> None:
        """Raise UserError for what cannot be measured at all, before anything is measured."""

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        """Load a model in place of the open one."""

    def verify(
        self,
        cache: str,
        new_tokens: int = 32,
        generations: int = 6,
        reach: Case | None = None,
    ) -> tuple[Check, ...]:
        """Return the checks of a cache strategy on the open model.

        `reach` is a case whose length and batch size are checked as well. A strategy that cannot
        run has no checks; see `unmet`.
        """

    def unmet(self, cache: str) -> str | None:
        """Return why a cache strategy cannot run on the open model; None if it can."""

    def verify_output(self, case: Case) -> tuple[Check, ...]:
        """Check whether rounding explains that a case's tokens differ from the baseline's."""

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        """Run a job; a failure is a result too."""

    def quality(self, cache: str, text: Text, size: QualitySize) -> Quality:
        """Return what a cache strategy does to the output of the open model.

        What goes wrong, a lost process too, is the reason in the row.
        """

    def inspect(self, case: Case, layer: int) -> Inspection:
        """Inspect a case on the open model with and without a cache. May raise UserError."""

    def take_log(self) -> str:
        """Return the last output of the last lost process, once; empty if there is none."""

    def close(self) -> None:
        """Free the open model and end the measuring process."""
