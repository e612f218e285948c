"""Hand-made runs for the tests of reports: a grid of cases with known times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kvbench.plan.case import Case, Prompt
from kvbench.records.environment import Environment
from kvbench.records.run import Run
from kvbench.records.sample import Sample
from kvbench.records.writer import RunWriter
from tests.fakes import by_column, make_case, make_environment, make_info, make_task, timed_sample

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
"""Text that a page must show and not execute."""

SPREAD = (0.0, 0.02, -0.02, 0.01, -0.01, 0.03, -0.03)
"""Relative offsets of the samples of a case from its middle; their median is 0."""


def time_of(case: Case) -> float:
    """Return a second per 100 new tokens with the cache; without, as much again for each 100 of
    them.
    """
    cached = case.max_new_tokens / 100 * case.batch_size**0.5
    return cached if case.cache != "off" else cached * (1 + case.max_new_tokens / 100)


def grid(
    seconds: Callable[[Case], float] = time_of, repeats: int = 7, **axes: Sequence[Any]
) -> list[Sample]:
    """Return the samples of all cases over the axes; a prompt may be given as its text."""
    axes = {"cache": ("off", "dynamic"), "max_new_tokens": (10, 50, 100)} | axes
    found = []
    for values in itertools.product(*axes.values()):
        fields = dict(zip(axes, values, strict=True))
        if isinstance(fields.get("prompt"), str):
            fields["prompt"] = Prompt.of_text(fields["prompt"])
        case = make_case(**fields)
        found += samples_of(case, seconds(case), repeats)
    return found


def samples_of(case: Case, middle: float, repeats: int = 7, **fields: Any) -> list[Sample]:
    """Return samples of a case whose median is `middle`, if their number is odd."""
    return [
        timed_sample(make_task(case, repeat), middle * (1 + SPREAD[repeat % len(SPREAD)]), **fields)
        for repeat in range(repeats)
    ]


def run_of(samples: Iterable[Sample], name: str = "a-run", **info: Any) -> Run:
    """Return a run that is in no folder."""
    return Run(Path("/nowhere") / name, make_info(name=name, **info), by_column(samples))


def save(
    path: Path,
    samples: Iterable[Sample],
    times: Callable[[Sample], Sequence[float]] | None = None,
    **info: Any,
) -> Path:
    """Save a finished run folder with these samples and their token times, and no derived files."""
    state = info.pop("state", "finished")
    with RunWriter.create(path, make_info(**{"name": path.name} | info, state="running")) as writer:
        for sample in samples:
            timed = sample.status == "ok" and sample.total_s is not None
            writer.append(sample, (times or token_times)(sample) if timed else ())
        writer.finish(state)
    return path


def token_times(sample: Sample) -> list[float]:
    """Return evenly spaced stamps; the first token takes one interval."""
    assert sample.total_s is not None
    step = sample.total_s / sample.max_new_tokens
    return [step * (i + 1) for i in range(sample.max_new_tokens)]


def machine(hardware: str = "Some CPU", **fields: Any) -> Environment:
    """Return an environment whose CPU has this name."""
    first, *others = make_environment().devices
    devices = (type(first)(name="cpu", hardware=hardware), *others)
    return make_environment(cpu=hardware, devices=devices, **fields)
