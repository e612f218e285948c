"""The workload `single`: what a job measured, or how far it came before it failed."""

from __future__ import annotations

import dataclasses

from kvbench.measure.open_model import Observed
from kvbench.measure.outcome import outcome_of
from kvbench.measure.prefixes import prefixes_of
from kvbench.measure.workloads.job import Attempt, OpenJob
from kvbench.methods import JobResult

__all__ = ["run"]


def run(opened: OpenJob) -> JobResult:
    """Carry out a job."""
    model, job = opened.model, opened.job
    attempt = opened.attempt()
    generation = None
    try:
        observed = _observe(opened, attempt)
    except Exception as error:
        # Whatever a model raises is this job's failure, which its rows report; the sweep goes
        # on. Interrupts are not Exceptions and pass through.
        result = attempt.failed(opened.classify(error))
    else:
        generation = observed.taken.generation
        result = outcome_of(model.loaded, job.task, attempt.started_at, attempt.fields, observed)
    shorter = [one.new_tokens for one in job.tasks[:-1]]
    if not shorter and result.steps is None:
        return result
    return dataclasses.replace(
        result,
        prefixes=prefixes_of(generation, attempt.clock, shorter),
        architecture=model.architecture,
    )


def _observe(opened: OpenJob, attempt: Attempt) -> Observed:
    model, case = opened.model, opened.job.task.case
    attempt.reach("load")
    model.check_case(case)
    inputs = model.encoder.encode(case.prompt, case.batch_size)
    attempt.fields["prompt_tokens"] = inputs.tokens
    attempt.fields |= model.past_positions(case, inputs)
    attempt.reach("prefill")
    return model.run(opened.job, inputs, attempt.clock)
