"""Run one job on the open model: what it measured, or how far it came before it failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from kvbench.measure.clock import TokenClock
from kvbench.measure.failures import Failure
from kvbench.measure.open_model import Observed, OpenModel
from kvbench.measure.outcome import outcome_of
from kvbench.measure.prefixes import prefixes_of
from kvbench.methods import Job, JobResult
from kvbench.records.sample import Stage, utc_now

__all__ = ["run_job"]


@dataclasses.dataclass
class _Attempt:
    """What is known of a generation so far: all that its row has if it fails."""

    started_at: str
    clock: TokenClock
    fields: dict[str, Any]
    stage: Stage = "load"

    def failed(self, failure: Failure) -> JobResult:
        """Return the result of a generation that raised an error."""
        clock = self.clock
        stage = "decode" if clock.tokens else self.stage
        why = {"error": failure.error, "oom_bytes": failure.oom_bytes, "stage": stage}
        times = () if clock.started is None else clock.times(clock.started)
        return JobResult(failure.status, self.started_at, self.fields | why, times=times)


def run_job(
    model: OpenModel,
    job: Job,
    classify: Callable[[Exception], Failure],
    on_stage: Callable[[Stage], None],
) -> JobResult:
    """Carry out a job. A failure is a result too.

    Args:
        model: the open model.
        job: the generation, with the tasks that are read off it.
        classify: says what an error means.
        on_stage: called with each stage that the generation reaches.
    """
    clock = TokenClock(lambda: on_stage("decode"), model.meter.processor_s)
    attempt = _Attempt(utc_now(), clock, {"model_commit": model.loaded.commit})
    generation = None
    try:
        observed = _observe(model, job, attempt, on_stage)
    except Exception as error:
        # Whatever a model raises is this job's failure, which its rows report; the sweep goes
        # on. Interrupts are not Exceptions and pass through.
        result = attempt.failed(classify(error))
    else:
        generation = observed.taken.generation
        result = outcome_of(model.loaded, job.task, attempt.started_at, attempt.fields, observed)
    shorter = [one.new_tokens for one in job.tasks[:-1]]
    if not shorter and result.steps is None:
        return result
    return dataclasses.replace(
        result,
        prefixes=prefixes_of(generation, clock, shorter),
        architecture=model.architecture,
    )


def _observe(
    model: OpenModel, job: Job, attempt: _Attempt, on_stage: Callable[[Stage], None]
) -> Observed:
    case = job.task.case
    on_stage(attempt.stage)
    model.check_cache(case.cache, case.driver)
    inputs = model.encoder.encode(case.prompt, case.batch_size)
    attempt.fields["prompt_tokens"] = inputs.tokens
    attempt.fields |= model.past_positions(case, inputs)
    attempt.stage = "prefill"
    on_stage(attempt.stage)
    return model.run(job, inputs, attempt.clock)
