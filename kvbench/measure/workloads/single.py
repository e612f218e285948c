"""The workload `single`: one generation, or how far it came before it failed."""

from __future__ import annotations

import dataclasses

from kvbench.measure.open_model import Observed
from kvbench.measure.outcome import outcome_of
from kvbench.measure.prefixes import prefixes_of
from kvbench.measure.workloads.job import Attempt, OpenJob
from kvbench.methods import JobResult

__all__ = ["run"]


def run(opened: OpenJob) -> JobResult:
    """Generate once."""
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
        generation = observed.generation
        result = outcome_of(model.loaded, job.task, attempt.started_at, attempt.fields, observed)
    shorter = [one.new_tokens for one in job.tasks[:-1]]
    if not shorter:
        return result
    return dataclasses.replace(
        result,
        prefixes=prefixes_of(generation, attempt.clock, shorter),
        architecture=model.architecture,
    )


def _observe(opened: OpenJob, attempt: Attempt) -> Observed:
    model, task = opened.model, opened.job.task
    case = task.case
    attempt.reach("load")
    model.check_case(case)
    inputs = model.encoder.encode(case.prompt, case.batch_size)
    attempt.fields["prompt_tokens"] = inputs.tokens
    attempt.fields |= model.past_positions(case, inputs)
    attempt.reach("prefill")
    return model.run(task, inputs, attempt.clock)
