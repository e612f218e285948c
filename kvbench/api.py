"""The library: what the command line does, from a notebook or a program."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import kvbench
from kvbench.case import Case, group_cases
from kvbench.errors import UserError
from kvbench.plan import Plan
from kvbench.records.environment import Environment
from kvbench.records.events import Event, Listener, SweepEnded, SweepStarted
from kvbench.records.run import Run, RunInfo, load_run
from kvbench.records.sample import utc_now
from kvbench.records.writer import RunWriter, check_name, check_new
from kvbench.run.engine import Engine

__all__ = ["environment", "plan_cases", "sweep"]


def plan_cases(plan: Plan, *, allow_many: bool = False) -> tuple[Case, ...]:
    """The cases of a plan on this machine. Looks for GPUs only if the plan may use one.

    Raises:
        UserError: a device is not present, or the grid is too large.
    """
    if not plan.needs_devices():
        return plan.cases(("cpu",), allow_many=allow_many)
    from kvbench.measure.devices import present_devices, why_no_cuda

    try:
        return plan.cases(present_devices(), allow_many=allow_many)
    except UserError as error:
        reason = why_no_cuda()
        if reason is None or "is not present" not in str(error):
            raise
        raise UserError(f"{error} {reason}") from error


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

    Args:
        plan: what to measure.
        out: the folder that run folders are made in.
        name: the run's folder in it; by default date, model and a short hash.
        listener: called with each event; see kvbench.records.events.
        stop: asked between samples; True ends the sweep after the sample in flight.
        allow_many: take a grid of more than 10,000 cases.
        command: the command line, for run.json.
        engine: what measures; by default this process.

    Raises:
        UserError: the plan cannot be measured here at all. A case that fails is a row instead.
    """
    from kvbench.measure.stopping import StoppingRule
    from kvbench.report.write import write_derived
    from kvbench.run.sweep import run_groups

    emit: Listener = listener or _ignore
    cases = plan_cases(plan, allow_many=allow_many)
    groups = group_cases(cases)
    path = Path(out) / check_name(name if name is not None else _default_name(cases))
    # Before a model is loaded, and again when the folder is made.
    check_new(path)
    engine = engine or _local_engine(plan)
    engine.check(groups)
    rule = StoppingRule(
        repeats=plan.repeats,
        min_repeats=plan.min_repeats,
        max_repeats=plan.max_repeats,
        min_seconds=plan.min_seconds,
        max_spread=plan.max_spread,
        max_seconds=plan.max_case_seconds,
    )
    info = RunInfo(
        name=path.name,
        state="running",
        kvbench=kvbench.__version__,
        started_at=utc_now(),
        command=tuple(command),
        plan=plan.model_dump(mode="json"),
        cases=_describe(cases),
        environment=environment(),
    )
    with RunWriter(path, info) as writer:
        emit(SweepStarted(path, cases, plan.repeats or plan.min_repeats))
        outcome = run_groups(groups, engine, writer, emit, rule=rule, seed=plan.seed, stop=stop)
        state = "interrupted" if outcome.interrupted else "finished"
        writer.finish(state, outcome.notes)
        if outcome.load_errors and not outcome.loaded and not outcome.interrupted:
            # No model could be loaded: that is a mistake to mend, not a result to keep.
            writer.discard()
            raise UserError(outcome.load_errors[0])
    run = load_run(path)
    write_derived(run)
    emit(SweepEnded(path, state, outcome.failed))
    return run


def environment() -> Environment:
    """The machine and the software, as recorded in every run."""
    from kvbench.measure.environment import read_environment

    return read_environment()


def _local_engine(plan: Plan) -> Engine:
    from kvbench.measure.engine import LocalEngine

    return LocalEngine(seed=plan.seed, trust_remote_code=plan.trust_remote_code)


def _default_name(cases: Sequence[Case]) -> str:
    now = datetime.now()
    models = list(dict.fromkeys(Path(case.model).name for case in cases))
    model = re.sub(r"[^A-Za-z0-9._-]", "-", models[0])[:60]
    more = f"+{len(models) - 1}" if len(models) > 1 else ""
    text = json.dumps([now.isoformat(), *(case.key for case in cases)])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{now:%Y-%m-%d}-{model}{more}-{digest}"


def _describe(cases: Sequence[Case]) -> tuple[dict[str, object], ...]:
    return tuple({"case_id": case.id} | dataclasses.asdict(case) for case in cases)


def _ignore(event: Event) -> None:
    """A listener for those who want none."""
