"""How a job is carried out: as one generation, or as its method says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from kvbench.analysis.sampled import Measured
from kvbench.bodies import named_body
from kvbench.caches import strategy
from kvbench.measure.clock import TokenClock
from kvbench.measure.generate import Generation, generate
from kvbench.measure.kept import Kept
from kvbench.measure.pauses import paused
from kvbench.methods import METHODS, Job
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = ["JobCall", "Taken", "generated", "take"]


@dataclass(frozen=True)
class JobCall:
    """A job on an open model.

    Attributes:
        loaded: the model.
        inputs: the prompt, encoded.
        job: the job.
        clock: stamps the generation; of several short ones the first, so that a failure tells how
            far it came.
        synchronise: waits until the device has finished all queued work.
        processor_s: reads the processor time of this process, if it does the work itself.
        kept: the cache of earlier generations, which the job continues.
    """

    loaded: LoadedModel
    inputs: Inputs
    job: Job
    clock: TokenClock
    synchronise: Callable[[], None]
    processor_s: Callable[[], float] | None
    kept: Kept | None = None


@dataclass(frozen=True)
class Taken:
    """What a job produced.

    Attributes:
        generation: the generation, or the last one of several short ones.
        paused: whether it stood still.
        seconds: how long it took.
        steps: the steps at chosen positions, in place of a whole generation.
    """

    generation: Generation
    paused: bool
    seconds: float
    steps: Measured | None = None


def take(call: JobCall) -> Taken:
    """Carry out a job; anything untimed, such as a warm-up, is always a single generation."""
    body = METHODS[call.job.method].body
    if body is None or call.job.task.phase != "measure":
        return generated(call)
    return cast("Callable[[JobCall], Taken]", named_body(body))(call)


def generated(call: JobCall) -> Taken:
    """Generate the longest task of a job."""
    task, clock = call.job.task, call.clock
    made = generate(
        call.loaded,
        call.inputs,
        strategy(task.case.cache),
        task.new_tokens,
        clock=clock,
        synchronise=call.synchronise,
        driver=task.case.driver,
        kept=call.kept,
    )
    return Taken(made, paused(clock.ticks, clock.used), made.total_s)
