"""The library: what the command line does, from a notebook or a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from kvbench.plan.plan import Plan
from kvbench.plan.texts import Text, default_text
from kvbench.records.check import Check
from kvbench.records.environment import Environment
from kvbench.records.events import Listener
from kvbench.records.inspection import Inspection
from kvbench.records.quality import Quality, QualitySize
from kvbench.records.rates import Rates
from kvbench.records.run import Run
from kvbench.run import machine, quality, session, single
from kvbench.run.engine import Engine
from kvbench.run.machine import Caller, plan_cases
from kvbench.run.methods import method_notices
from kvbench.run.supervisor import WorkerEngine
from kvbench.theory.architecture import FAMILIES, Architecture, family_of

__all__ = [
    "environment",
    "inspect",
    "measure_quality",
    "method_notices",
    "plan_cases",
    "probe",
    "read_architecture",
    "resume",
    "sweep",
    "verify",
]


def sweep(
    plan: Plan,
    *,
    out: str | Path = "results",
    name: str | None = None,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    allow_many: bool = False,
    command: Sequence[str] = (),
    engine: Engine | None = None,
) -> Run:
    """Measure a plan, write its run folder, and return the run.

    A run of that name and the same plan is gone on with: what it has is not measured again.

    Args:
        plan: what to measure.
        out: the folder that run folders are made in.
        name: the run's folder in it; by default date, model and a short hash.
        listener: called with each event; see kvbench.records.events.
        stop: asked between samples; True ends the sweep after the sample in flight.
        allow_many: take a grid of more than 10,000 cases.
        command: the command line, for run.json.
        engine: what measures; by default a worker process.

    Raises:
        UserError: the plan cannot be measured here at all. A case that fails is a row instead.
    """
    caller = Caller(listener, stop, engine)
    return session.start(plan, Path(out), name, caller, allow_many=allow_many, command=command)


def resume(
    path: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    allow_many: bool = False,
    retry_failed: bool = False,
    command: Sequence[str] = (),
    engine: Engine | None = None,
) -> Run:
    """Go on with a run where it stopped.

    Args:
        path: the run's folder.
        options: keys of the plan that say how the run is carried out, such as `case_timeout`. A
            key that changes what is measured is refused. `trust_remote_code` must be given again.
        retry_failed: measure all failed cases again, not only those whose process was lost.
        listener, stop, allow_many, command, engine: as for `sweep`.

    Raises:
        UserError: there is no run, it is in use, the plan or the machine has changed, or its plan
            trusts a model's code and the options do not say so again.
    """
    return session.go_on(
        Path(path),
        options,
        Caller(listener, stop, engine),
        allow_many=allow_many,
        retry_failed=retry_failed,
        command=command,
    )


def verify(
    plan: Plan,
    *,
    max_new_tokens: int = 32,
    generations: int = 6,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: Engine | None = None,
) -> tuple[Check, ...]:
    """Check that the cache strategies of a plan do the same work as no cache.

    Of the plan only what makes a model counts, and the strategies. Nothing is written.

    Args:
        plan: models, devices, dtypes, attention implementations and strategies.
        max_new_tokens: tokens per sequence that are compared.
        generations: in a row, to see whether something stays behind.
        listener, stop, engine: as for `sweep`.

    Raises:
        UserError: a model cannot be loaded, or a number is too small.
    """
    return single.verify(plan, Caller(listener, stop, engine), max_new_tokens, generations)


def inspect(
    plan: Plan,
    *,
    max_new_tokens: int = 5,
    layer: int = 0,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: Engine | None = None,
) -> Inspection:
    """Look at a generation without a cache and with one, step by step: shapes, FLOPs, tokens.

    Nothing is timed, nothing is written.

    Args:
        plan: one model, one device, one prompt and so on; one cache strategy beside `off`.
        max_new_tokens: tokens to generate per sequence, whatever the plan says.
        layer: whose queries, keys and values are shown, from 0.
        listener, stop, engine: as for `sweep`.

    Raises:
        UserError: the plan stands for more than one case, the model cannot be loaded or fails, the
            layer is out of range, or the prompt and the new tokens exceed the model's positions.
    """
    return single.inspect(plan, Caller(listener, stop, engine), max_new_tokens, layer)


def probe(
    devices: Sequence[str] = (),
    *,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: Engine | None = None,
) -> tuple[Rates, ...]:
    """Measure what devices read, copy and multiply per second, and store it for later runs.

    Args:
        devices: their names, as in a plan; by default all that are present.
        listener, stop, engine: as for `sweep`.

    Raises:
        UserError: a device is not present, cannot be measured, or the store is damaged.
    """
    return single.probe(devices, Caller(listener, stop, engine))


def measure_quality(
    path: str | Path,
    *,
    text: Text | None = None,
    size: QualitySize | None = None,
    trust_remote_code: bool = False,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Quality, ...]:
    """Measure what the lossy strategies of a run do to the output, and add it to the run.

    Each is compared with no cache on the same model. The rows go to quality.csv in the run's
    folder, and what is derived from the run is made again.

    Args:
        path: the run's folder.
        text: what the models read; by default Python's language reference.
        size: how much of it.
        trust_remote_code: let a model run its own code.
        listener, stop: as for `sweep`.

    Raises:
        UserError: there is no run, it is in use, none of its strategies is lossy, or a model
            cannot be loaded.
    """
    return quality.measure_quality(
        Path(path),
        text or default_text(),
        size or QualitySize(),
        Caller(listener, stop),
        trust_remote_code=trust_remote_code,
    )


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read a model's architecture from its config.json, whatever the family.

    A family that theory has no formulas for is built in a worker process, without data, and its
    cache is read off the model; that takes some seconds and needs torch.

    Raises:
        UserError: neither theory nor Transformers can read it.
    """
    if family_of(config) in FAMILIES:
        return Architecture.from_config(config)
    with closing(WorkerEngine()) as engine:
        return Architecture.from_shapes(engine.shapes(config))


def environment() -> Environment:
    """The machine and the software, as recorded in every run. Starts a process to look."""
    return machine.look()
