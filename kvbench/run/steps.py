"""Steps: what an engine can be asked to do next, as data, and how to ask it."""

from __future__ import annotations

from dataclasses import dataclass

from kvbench.methods import Job, JobResult
from kvbench.plan.case import Case, ModelKey
from kvbench.records.check import Check
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.sample import utc_now
from kvbench.run.engine import Engine

__all__ = ["Compare", "Load", "Reply", "RunJob", "Step", "Verify", "perform"]


@dataclass(frozen=True, slots=True)
class Load:
    """Load the model; `case` is the first one that waits for it."""

    model: ModelKey
    case: Case


@dataclass(frozen=True, slots=True)
class Verify:
    """Check a case's strategy on the open model, also at the length and batch size of `reach`."""

    case: Case
    reach: Case | None


@dataclass(frozen=True, slots=True)
class RunJob:
    """Run a job on the open model.

    Attributes:
        limit_s: the total time limit for the samples of the case; None for no limit.
        used_s: the time that they have used so far.
    """

    job: Job
    limit_s: float | None = None
    used_s: float = 0.0

    @property
    def case(self) -> Case:
        """The case of its longest task."""
        return self.job.task.case


@dataclass(frozen=True, slots=True)
class Compare:
    """Check whether rounding explains that a case's tokens differ from those without a cache."""

    case: Case


Step = Load | Verify | RunJob | Compare
Reply = ModelLoaded | LoadFailed | JobResult | tuple[Check, ...]


def perform(step: Step, engine: Engine) -> Reply:
    """Have an engine carry out a step, and return its answer. Nothing else is read or changed.

    Raises:
        Interrupted: the sweep is to stop.
    """
    if isinstance(step, Load):
        return engine.open(step.model)
    if isinstance(step, Verify):
        if step.reach is None:
            return engine.verify(step.case.cache)
        return engine.verify(step.case.cache, reach=step.reach)
    if isinstance(step, Compare):
        return engine.verify_output(step.case)
    if step.limit_s is None:
        return engine.run(step.job)
    if step.used_s < step.limit_s:
        return engine.run(step.job, step.limit_s - step.used_s)
    error = f"the samples of this case took {step.used_s:.3g} s of {step.limit_s:g} s"
    return JobResult("timeout", utc_now(), {"error": error})
