"""The library: what the command line does, from a notebook or a program."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import kvbench
from kvbench.caches import BASELINE, needs_trust
from kvbench.errors import UserError
from kvbench.measure.stopping import StoppingRule
from kvbench.plan.case import Case, ModelKey, group_cases
from kvbench.plan.plan import CONDUCT, Plan, check_trust, choose_devices, with_legacy
from kvbench.records.changes import environment_changes
from kvbench.records.check import Check, CheckName, check_of
from kvbench.records.environment import Environment
from kvbench.records.events import (
    Event,
    Listener,
    LoadFailed,
    ModelLoading,
    Notice,
    SweepEnded,
    SweepStarted,
    Verifying,
)
from kvbench.records.inspection import Inspection
from kvbench.records.rates import Rates, keep_rates, read_rates, store_problem
from kvbench.records.run import Resume, Run, RunInfo, load_info, load_run
from kvbench.records.sample import STATUSES, Sample, utc_now
from kvbench.records.writer import RunWriter, check_name, holds_run
from kvbench.report.build import build, forget_report, is_built
from kvbench.run.engine import Engine
from kvbench.run.progress import TRIED_AGAIN, CaseProgress, progress_of
from kvbench.run.resume import cases_of, described, plan_changes
from kvbench.run.supervisor import WorkerEngine
from kvbench.run.sweep import Conduct, run_groups

__all__ = ["environment", "inspect", "plan_cases", "probe", "resume", "sweep", "verify"]

_LEAST = {"max_new_tokens": 2, "generations": 3}
"""Two tokens for one step through the cache; three generations for a slope."""


def plan_cases(
    plan: Plan, *, allow_many: bool = False, environment: Environment | None = None
) -> tuple[Case, ...]:
    """The cases of a plan on this machine. Looks for GPUs only if the plan may use one.

    Args:
        plan: what to measure.
        allow_many: take a grid of more than 10,000 cases.
        environment: the machine, if it is known already.

    Raises:
        UserError: a device is not present, or the grid is too large.
    """
    if not plan.needs_devices():
        return plan.cases(("cpu",), allow_many=allow_many)
    machine = environment or _look()
    with _why_there_is_none(machine):
        return plan.cases(tuple(d.name for d in machine.devices), allow_many=allow_many)


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
    # Before the seconds that a worker takes to start.
    path = None if name is None else Path(out) / check_name(name)
    old = load_info(path) if path is not None and holds_run(path) else None
    with closing(engine or _worker(plan, stop)) as engine:
        machine = engine.environment()
        cases = plan_cases(plan, allow_many=allow_many, environment=machine)
        start = _Start(plan, engine, listener or _ignore, stop, tuple(command))
        if path is not None and old is not None:
            return start.go_on(path, old, cases, machine)
        return start.begin(path or Path(out) / _default_name(cases), cases, machine)


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
    path = Path(path)
    old = load_info(path)
    options = dict(options or {})
    foreign = needs_trust(old.plan.get("cache") or ())
    if foreign:
        check_trust(str(path), foreign, options)
    if foreign and not old.plan.get("trust_remote_code"):
        # It was given for the cache: whether a model's code runs stays as it was.
        options.pop("trust_remote_code")
    plan = Plan.merge(with_legacy(old.plan), options)
    if plan.trust_remote_code and "trust_remote_code" not in options:
        # The folder may come from somebody else, whose word it then is.
        raise UserError(
            f"{path} was created with --trust-remote-code, which lets a model run its own code: "
            "give the option again if you trust the model."
        )
    if plan.trust_remote_code == old.plan.get("trust_remote_code"):
        # Said again, it is no change.
        options.pop("trust_remote_code", None)
    again = frozenset(STATUSES) - {"ok"} if retry_failed else TRIED_AGAIN
    if plan.keep_going_after_oom:
        again |= {"skipped_oom"}
    with closing(engine or _worker(plan, stop)) as engine:
        machine = engine.environment()
        # As they were planned, unless something is to change: a prompt file may have moved since.
        cases = (
            plan_cases(plan, allow_many=allow_many, environment=machine)
            if set(options) - CONDUCT
            else cases_of(old)
        )
        start = _Start(plan, engine, listener or _ignore, stop, tuple(command), again)
        return start.go_on(path, old, cases, machine)


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
    for name, value in (("max_new_tokens", max_new_tokens), ("generations", generations)):
        if value < _LEAST[name]:
            raise UserError(f"{name}: {value} is too few; at least {_LEAST[name]} are needed.")
    emit = listener or _ignore
    with closing(engine or _worker(plan, stop)) as engine:
        groups = group_cases(plan_cases(plan, environment=engine.environment()))
        engine.check(groups)
        checks: list[Check] = []
        for group in groups:
            caches = dict.fromkeys(case.cache for case in group.cases if case.cache != BASELINE)
            for cache in caches:
                _open(engine, group.model, emit)
                emit(Verifying(group.model, cache))
                found = engine.verify(cache, max_new_tokens, generations)
                if not found and (reason := engine.unmet(cache)) is not None:
                    found = _not_made(group.model, cache, reason)
                checks += found
        if not checks:
            raise UserError(f"cache: '{BASELINE}' is what the other strategies are compared with.")
        return tuple(checks)


def _not_made(key: ModelKey, cache: str, reason: str) -> tuple[Check, ...]:
    """The checks of a strategy that cannot run: the first and the last of them, for all."""
    names: tuple[CheckName, ...] = ("logits", "leak")
    return tuple(check_of(key, cache, name, "inconclusive", reason) for name in names)


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
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens: {max_new_tokens} is too few; at least 1 is needed.")
    emit = listener or _ignore
    with closing(engine or _worker(plan, stop)) as engine:
        planned = plan_cases(plan, environment=engine.environment())
        # The baseline is there in any case.
        cases = [replace(case, max_new_tokens=max_new_tokens) for case in planned]
        cases = [case for case in dict.fromkeys(cases) if case.cache != BASELINE]
        if len(cases) != 1:
            raise UserError(
                f"One case beside '{BASELINE}' can be inspected at a time; the options name "
                f"{len(cases)}: give one model, device, dtype, prompt, batch size and cache."
            )
        engine.check(group_cases(cases))
        _open(engine, cases[0].model_key, emit)
        return engine.inspect(cases[0], layer)


def _open(engine: Engine, model: ModelKey, emit: Listener) -> None:
    if engine.open_model == model:
        return
    emit(ModelLoading(model))
    loaded = engine.open(model)
    emit(loaded)
    if isinstance(loaded, LoadFailed):
        raise UserError(loaded.error)


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
    emit = listener or _ignore
    # Before the seconds that a probe takes. The figures are worth having without a store, too.
    problem = store_problem()
    if problem is None:
        read_rates()
    else:
        emit(Notice(f"the rates will not be stored: {problem}"))
    with closing(engine or WorkerEngine(stop=stop)) as engine:
        machine = engine.environment()
        present = tuple(d.name for d in machine.devices)
        with _why_there_is_none(machine):
            names = choose_devices(devices or present, present)
        found = []
        for name in names:
            emit(Notice(f"probing {name} ({machine.hardware(name)}) ..."))
            found.append(engine.probe(name))
            if problem is None:
                try:
                    keep_rates(found[-1])
                except OSError as error:
                    # The disk may have become full meanwhile.
                    emit(Notice(f"the rates of {name} were not stored: {error.strerror or error}"))
        return tuple(found)


def environment() -> Environment:
    """The machine and the software, as recorded in every run. Starts a process to look."""
    return _look()


@dataclass(frozen=True)
class _Start:
    """One start of a sweep: what a new run and a resumed one have in common."""

    plan: Plan
    engine: Engine
    emit: Listener
    stop: Callable[[], bool]
    command: tuple[str, ...]
    again: frozenset[str] = TRIED_AGAIN

    def begin(self, path: Path, cases: tuple[Case, ...], machine: Environment) -> Run:
        """Make a run folder and fill it."""
        self.engine.check(group_cases(cases))
        info = RunInfo(
            name=path.name,
            state="running",
            kvbench=kvbench.__version__,
            started_at=utc_now(),
            command=self.command,
            plan=self.plan.model_dump(mode="json"),
            cases=described(cases),
            environment=machine,
        )
        with RunWriter.create(path, info) as writer:
            return self._carry_out(writer, self._progress(cases, ()))

    def go_on(self, path: Path, old: RunInfo, cases: tuple[Case, ...], machine: Environment) -> Run:
        """Measure what a run lacks.

        Raises:
            UserError: the plan or the machine has changed.
        """
        plan = self.plan.model_dump(mode="json")
        changes = [
            *plan_changes(old, plan, cases),
            *environment_changes(old.environment, machine, {case.device for case in cases}),
        ]
        if changes:
            raise UserError(
                f"{path} was created with different settings ({'; '.join(changes)}): start a new "
                "run with another --name, and compare the two with `kvbench compare`."
            )
        if old.state == "finished":
            run = load_run(path)
            if not _left(self._progress(cases, run.samples)):
                self.emit(Notice(f"{path} is finished: there is nothing left to measure."))
                if not is_built(path):
                    # A kill or a full disk came in between.
                    build((run,), path)
                return run
        this = Resume(
            started_at=utc_now(),
            kvbench=kvbench.__version__,
            command=self.command,
        )
        with RunWriter.reopen(path, this, plan=plan, cases=described(cases)) as writer:
            forget_report(path)
            for repair in writer.repairs:
                self.emit(Notice(repair))
            progress = self._progress(cases, writer.samples)
            left = _left(progress)
            self.emit(Notice(f"{path}: {len(left)} of {len(cases)} cases are left to measure."))
            self.engine.check(group_cases(left))
            return self._carry_out(writer, progress)

    def _carry_out(self, writer: RunWriter, progress: dict[Case, CaseProgress]) -> Run:
        left = _left(progress)
        begun = tuple(sample for case in left for sample in progress[case].counted)
        self.emit(
            SweepStarted(writer.path, left, self.plan.repeats or self.plan.min_repeats, begun)
        )
        outcome = run_groups(
            group_cases(tuple(progress)),
            progress,
            self.engine,
            writer,
            self.emit,
            conduct=self._conduct,
            stop=self.stop,
        )
        state = "interrupted" if outcome.interrupted else "finished"
        writer.finish(state, outcome.notes)
        nothing = not (outcome.loaded or outcome.interrupted or writer.samples)
        if outcome.load_errors and nothing:
            # No model could be loaded: that is a mistake to mend, not a result to keep.
            writer.discard()
            raise UserError(outcome.load_errors[0])
        run = load_run(writer.path)
        build((run,), run.path)
        self.emit(SweepEnded(writer.path, state, outcome.failed))
        return run

    def _progress(
        self, cases: Sequence[Case], samples: Sequence[Sample]
    ) -> dict[Case, CaseProgress]:
        return progress_of(cases, samples, self._conduct.rule, self.again)

    @property
    def _conduct(self) -> Conduct:
        plan = self.plan
        rule = StoppingRule(
            repeats=plan.repeats,
            min_repeats=plan.min_repeats,
            max_repeats=plan.max_repeats,
            min_seconds=plan.min_seconds,
            max_spread=plan.max_spread,
            max_seconds=plan.max_case_seconds,
        )
        return Conduct(
            rule=rule,
            seed=plan.seed,
            warmup=plan.warmup,
            case_timeout_s=plan.case_timeout,
            keep_going_after_oom=plan.keep_going_after_oom,
            verify=plan.verify,
        )


def _left(progress: dict[Case, CaseProgress]) -> tuple[Case, ...]:
    """The cases of which there is more to measure."""
    return tuple(case for case, known in progress.items() if not known.ended)


@contextmanager
def _why_there_is_none(machine: Environment) -> Iterator[None]:
    """Add to the refusal of a device the reason why there is no CUDA."""
    try:
        yield
    except UserError as error:
        reasons = [line for line in machine.missing if line.startswith("CUDA:")]
        if not reasons or "is not present" not in str(error):
            raise
        raise UserError(f"{error} {reasons[0]}") from error


def _look() -> Environment:
    with closing(WorkerEngine()) as engine:
        return engine.environment()


def _worker(plan: Plan, stop: Callable[[], bool]) -> Engine:
    return WorkerEngine(
        seed=plan.seed,
        trust_remote_code=plan.trust_remote_code,
        step_timeout_s=plan.case_timeout,
        stop=stop,
    )


def _default_name(cases: Sequence[Case]) -> str:
    now = datetime.now()
    models = list(dict.fromkeys(Path(case.model).name for case in cases))
    model = re.sub(r"[^A-Za-z0-9._-]", "-", models[0])[:60]
    more = f"+{len(models) - 1}" if len(models) > 1 else ""
    text = json.dumps([now.isoformat(), *(case.key for case in cases)])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{now:%Y-%m-%d}-{model}{more}-{digest}"


def _ignore(event: Event) -> None:
    """A listener for those who want none."""
