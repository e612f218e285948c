"""What a sweep asks of whatever does the measuring: a worker process, or a fake in tests."""

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
    """The sweep was asked to stop while the engine did what is not worth waiting for."""


class Engine(Protocol):
    """Opens one model at a time and runs jobs on it. All that passes is plain data.

    Whatever happens to the process that measures is told as a value: a result, a failed load, a
    check. All but `run` and `close` may raise Interrupted.
    """

    @property
    def open_model(self) -> ModelKey | None:
        """The model that is open; None again once the process that had it was lost."""

    @property
    def process(self) -> int:
        """A number for the process that measures; another one is started when it is lost."""

    def environment(self) -> Environment:
        """The machine and the software that measure."""

    def probe(self, device: str) -> Rates:
        """The rates of a device that is present, measured now."""

    def shapes(self, config: Mapping[str, Any]) -> Shapes:
        """Return what the cache of a model keeps, read by building the model without its data."""

    def check(self, groups: Iterable[Group]) -> None:
        """Raise UserError for what cannot be measured at all, before anything is."""

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        """Load a model in place of the one that is open."""

    def verify(
        self,
        cache: str,
        new_tokens: int = 32,
        generations: int = 6,
        reach: Case | None = None,
    ) -> tuple[Check, ...]:
        """Whether the open model does the same work with a cache strategy as without.

        `reach` is a case at whose length and batch it is checked as well. There are no checks of
        what cannot run; see `unmet`.
        """

    def unmet(self, cache: str) -> str | None:
        """Why a cache strategy cannot run on the open model, None if it can."""

    def verify_output(self, case: Case) -> tuple[Check, ...]:
        """Whether rounding explains that a case's tokens are not those without a cache."""

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        """Carry out a job; a failure is a result too."""

    def quality(self, cache: str, text: Text, size: QualitySize) -> Quality:
        """Return what a cache strategy does to the output of the open model.

        What goes wrong, a lost process too, is the reason in the row.
        """

    def inspect(self, case: Case, layer: int) -> Inspection:
        """Both arms of a case on the open model, step by step. May raise UserError."""

    def take_log(self) -> str:
        """What the last process that was lost wrote at its end, once; empty if there is none."""

    def close(self) -> None:
        """Free the open model and end what measures."""
