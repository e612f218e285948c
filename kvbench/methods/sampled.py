"""The method `sampled`: totals are estimated from steps that are timed at chosen positions."""

from __future__ import annotations

from collections.abc import Sequence

from kvbench.analysis.sampled import can_sample, rows_of_steps
from kvbench.methods.each import EACH
from kvbench.methods.entry import Method
from kvbench.methods.job import Job, JobResult, Row
from kvbench.methods.trace import TRACE
from kvbench.plan.case import Task

__all__ = ["SAMPLED"]

_KEPT = (
    "model_commit",
    "attention_used",
    "flags",
    "cache_class",
    "cache_layers",
    "weights_bytes",
    "gpu_other_processes",
    "gpu_throttle_reasons",
    "gpu_sm_clock_mhz",
    "gpu_temperature_c",
    "load_average",
    "other_cpu_share",
    "cpu_governor",
)
"""Columns that hold for all lengths. Memory and energy are those of short generations, and the
tokens follow arbitrary ones: they are left out.
"""


def jobs(tasks: Sequence[Task]) -> tuple[Job, ...]:
    """Return one job for the tasks that differ in the length alone, in the order of the first."""
    return tuple(Job(job.tasks, SAMPLED.name) for job in TRACE.jobs(tasks))


def rows(job: Job, result: JobResult) -> tuple[Row, ...]:
    """Return the rows of all lengths, without stamps; a warm-up is an ordinary generation.

    Positions are measured in a random order. If one of them failed, only the longest length has a
    row: shorter ones may work. All have one if nothing was measured at all.
    """
    if job.task.phase != "measure":
        return EACH.rows(job, result)
    if result.status != "ok" or result.steps is None:
        began = result.fields.get("stage") == "decode"
        return tuple(
            (EACH.rows(Job((task,), EACH.name), result)[0][0], ())
            for task in (job.tasks[-1:] if began else job.tasks)
        )
    samples = rows_of_steps(
        result.steps,
        job.tasks,
        prompt_tokens=result.fields.get("prompt_tokens"),
        architecture=result.architecture,
        start_bytes=result.fields.get("kv_cache_bytes"),
        started_at=result.started_at,
        sampling_s=result.total_s,
        **{name: result.fields.get(name) for name in _KEPT},
    )
    return tuple((sample, ()) for sample in samples)


SAMPLED = Method(
    name="sampled",
    description="Totals are estimated from steps at chosen positions.",
    groups=TRACE.groups,
    jobs=jobs,
    rows=rows,
    can=can_sample,
    body="kvbench.measure.sampled:take",
)
