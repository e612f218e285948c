"""A job on an open model, and what is known of one generation of it so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvbench.measure.clock import TokenClock
from kvbench.measure.failures import Failure
from kvbench.measure.open_model import OpenModel
from kvbench.methods import Job, JobResult
from kvbench.records.sample import Stage, utc_now

__all__ = ["Attempt", "Body", "OpenJob"]


@dataclass(frozen=True)
class OpenJob:
    """A job on an open model.

    Attributes:
        model: the open model.
        job: the generation, with the tasks that are read off it.
        classify: says what an error means.
        on_stage: called with each stage that a generation reaches.
    """

    model: OpenModel
    job: Job
    classify: Callable[[Exception], Failure]
    on_stage: Callable[[Stage], None]

    def attempt(self) -> Attempt:
        """Return the start of a generation."""
        clock = TokenClock(lambda: self.on_stage("decode"), self.model.meter.processor_s)
        return Attempt(clock, self.on_stage, {"model_commit": self.model.loaded.commit})


@dataclass
class Attempt:
    """What is known of a generation so far: all that its row has if it fails."""

    clock: TokenClock
    on_stage: Callable[[Stage], None]
    fields: dict[str, Any]
    started_at: str = field(default_factory=utc_now)
    stage: Stage = "load"

    def reach(self, stage: Stage) -> None:
        """Record and report a stage."""
        self.stage = stage
        self.on_stage(stage)

    def failed(self, failure: Failure) -> JobResult:
        """Return the result of a generation that raised an error."""
        clock = self.clock
        stage = "decode" if clock.tokens else self.stage
        why = {"error": failure.error, "oom_bytes": failure.oom_bytes, "stage": stage}
        times = () if clock.started is None else clock.times(clock.started)
        return JobResult(failure.status, self.started_at, self.fields | why, times=times)


Body = Callable[[OpenJob], JobResult]
"""Carries out a job. A failure is a result too."""
