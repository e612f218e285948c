"""The library: everything that the command line does, for notebooks and programs."""

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
from kvbench.records.fit import Find, FitResult
from kvbench.records.inspection import Inspection
from kvbench.records.quality import Quality, QualitySize
from kvbench.records.rates import Rates
from kvbench.records.run import Run
from kvbench.run import fit as fitting
from kvbench.run import machine, quality, session, single
from kvbench.run.engine import Engine
from kvbench.run.machine import Caller, plan_cases
from kvbench.run.methods import method_notices
from kvbench.run.supervisor import WorkerEngine
from kvbench.theory.architecture import FAMILIES, Architecture, family_of

__all__ = [
    "environment",
    "fit",
    "free_bytes",
    "inspect",
    "inspect_strategies",
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

    If a run of that name with the same plan exists, it is continued: existing samples are kept.

    Args:
        plan: what to measure.
        out: the parent folder of run folders.
        name: the name of the run's folder; by default date, model and a short hash.
        listener: called with each event; see kvbench.records.events.
        stop: called between samples; return True to end the sweep after the current sample.
        allow_many: accept a grid of more than 10,000 cases.
        command: the command line, for run.json.
        engine: what measures; by default a worker process.

    Raises:
        UserError: the plan cannot be measured on this machine at all. A failing case becomes a row
            instead.
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
    """Continue a run where it stopped.

    Args:
        path: the run's folder.
        options: keys of the plan that control execution, such as `case_timeout`. Keys that change
            what is measured are refused. `trust_remote_code` must be given again.
        retry_failed: measure all failed cases again, not only those whose process was lost.
        listener, stop, allow_many, command, engine: as for `sweep`.

    Raises:
        UserError: there is no run, it is in use, the plan or the machine has changed, or its plan
            trusts a model's code and the options do not repeat that.
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
    """Check that cached generation matches the no-cache baseline, for each strategy of a plan.

    Only the model axes and the strategies of the plan matter. Nothing is written.

    Args:
        plan: models, devices, dtypes, attention implementations and strategies.
        max_new_tokens: tokens per sequence to compare.
        generations: how many to run in a row, to detect leaks.
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
    """Inspect a generation with and without a cache, step by step: shapes, FLOPs, tokens.

    Nothing is timed or written.

    Args:
        plan: one model, one device, one prompt and so on; one cache strategy besides `off`.
        max_new_tokens: tokens to generate per sequence; overrides the plan.
        layer: the layer whose queries, keys and values are shown, from 0.
        listener, stop, engine: as for `sweep`.

    Raises:
        UserError: the plan has more than one case, the model cannot be loaded or fails, the layer
            is out of range, or the prompt and the new tokens exceed the model's positions.
    """
    caller = Caller(listener, stop, engine)
    return single.inspect_one(plan, caller, max_new_tokens, layer)


def inspect_strategies(
    plan: Plan,
    *,
    max_new_tokens: int = 5,
    layer: int = 0,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: Engine | None = None,
) -> tuple[Inspection, ...]:
    """Inspect the generations of several cache strategies, each next to the one without a cache.

    Like `inspect`, with at least one strategy besides `off` in the plan; one inspection for each.
    """
    return single.inspect(plan, Caller(listener, stop, engine), max_new_tokens, layer)


def probe(
    devices: Sequence[str] = (),
    *,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: Engine | None = None,
) -> tuple[Rates, ...]:
    """Measure what devices read, copy and multiply per second, and store the rates for later runs.

    Args:
        devices: device names, as in a plan; by default all present devices.
        listener, stop, engine: as for `sweep`.

    Raises:
        UserError: a device is not present, cannot be measured, or the store is damaged.
    """
    return single.probe(devices, Caller(listener, stop, engine))


def fit(
    plan: Plan,
    *,
    find: Find = "batch",
    most: int | None = None,
    memory_limit: int | None = None,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: Engine | None = None,
) -> tuple[FitResult, ...]:
    """Find the largest batch or context that really fits, for each strategy of a plan.

    Starts at half the prediction, doubles the size until a generation runs out of memory, then
    bisects, to a sixteenth of the size. Each generation runs in a worker process, which is replaced
    after running out. Nothing is timed or written.

    Args:
        plan: models, devices and strategies; a single size, with a number of prompt tokens.
        find: what grows: the batch, or the positions at its end, by a longer prompt.
        most: the largest size to try; by default a batch of 4096, or the model's positions.
        memory_limit: bytes that a worker process may use on the host.
        listener, stop, engine: as for `sweep`.

    Raises:
        UserError: the plan has several sizes, its model cannot be measured at all, or the limit is
            not supported here.
    """
    caller = Caller(listener, stop, engine)
    return fitting.fit(plan, caller, find=find, most=most, memory_limit=memory_limit)


def free_bytes(device: str | None = None) -> int:
    """Return the free memory of a device now; by default of an accelerator, or else of the CPU.

    Raises:
        UserError: the device is not present.
    """
    return single.free_bytes(device, Caller())


def measure_quality(
    path: str | Path,
    *,
    text: Text | None = None,
    size: QualitySize | None = None,
    trust_remote_code: bool = False,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Quality, ...]:
    """Measure how the lossy strategies of a run change the output, and add it to the run.

    Each is compared with no cache on the same model. The rows go to quality.csv in the run's
    folder, and the derived files of the run are rebuilt.

    Args:
        path: the run's folder.
        text: the text that the models read; by default Python's language reference.
        size: how much of it to use.
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

    A family without formulas in theory is built in a worker process, without data, and its
    cache is read from the model; this takes a few seconds and needs torch.

    Raises:
        UserError: neither theory nor Transformers can read it.
    """
    if family_of(config) in FAMILIES:
        return Architecture.from_config(config)
    with closing(WorkerEngine()) as engine:
        return Architecture.from_shapes(engine.shapes(config))


def environment() -> Environment:
    """Return the machine and the software, as recorded in every run. Starts a process to look."""
    return machine.look()
