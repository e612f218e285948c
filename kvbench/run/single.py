"""Engine requests without a run folder: verify, inspect, probe and free memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvbench.caches import BASELINE
from kvbench.device_kinds import HOST, kind_of
from kvbench.errors import UserError
from kvbench.plan.case import Case, ModelKey, group_cases
from kvbench.plan.plan import Plan, choose_devices
from kvbench.records.check import Check, CheckName, check_of
from kvbench.records.events import Listener, LoadFailed, ModelLoading, Notice, Verifying
from kvbench.records.inspection import Inspection
from kvbench.records.rates import Rates, keep_rates, read_rates, store_problem
from kvbench.run.engine import Engine
from kvbench.run.machine import Caller, naming_what_is_missing, plan_cases

__all__ = ["free_bytes", "inspect", "inspect_one", "open_model", "probe", "verify"]

_LEAST = {"max_new_tokens": 2, "generations": 3}
"""Two tokens give one step through the cache; three generations give a slope."""


def verify(plan: Plan, caller: Caller, max_new_tokens: int, generations: int) -> tuple[Check, ...]:
    """Check the strategies of a plan against no cache; see kvbench.api.verify."""
    for name, value in (("max_new_tokens", max_new_tokens), ("generations", generations)):
        if value < _LEAST[name]:
            raise UserError(
                f"{name}: {value} is too few; use at least {_LEAST[name]}.",
                kind="too_few",
                name=name,
            )
    with caller.open_engine(plan) as engine:
        groups = group_cases(plan_cases(plan, environment=engine.environment()))
        engine.check(groups)
        checks: list[Check] = []
        for group in groups:
            caches = dict.fromkeys(case.cache for case in group.cases if case.cache != BASELINE)
            for cache in caches:
                open_model(engine, group.model, caller.emit)
                caller.emit(Verifying(group.model, cache))
                reason = engine.unmet(cache)
                checks += (
                    engine.verify(cache, max_new_tokens, generations)
                    if reason is None
                    else _not_made(group.model, cache, reason)
                )
        if not checks:
            raise UserError(
                f"cache: '{BASELINE}' is the baseline; name another strategy to check.",
                kind="baseline_alone",
            )
        return tuple(checks)


def _not_made(key: ModelKey, cache: str, reason: str) -> tuple[Check, ...]:
    """Return the checks of a strategy that cannot run: only the first and the last of them."""
    names: tuple[CheckName, ...] = ("logits", "leak")
    return tuple(check_of(key, cache, name, "inconclusive", reason) for name in names)


def inspect_one(plan: Plan, caller: Caller, max_new_tokens: int, layer: int) -> Inspection:
    """Inspect the steps of the only strategy of a plan; see kvbench.api.inspect."""
    (found,) = _inspected(plan, caller, max_new_tokens, layer, most=1)
    return found


def inspect(plan: Plan, caller: Caller, max_new_tokens: int, layer: int) -> tuple[Inspection, ...]:
    """Inspect the steps of each strategy of a plan; see kvbench.api.inspect_strategies."""
    return _inspected(plan, caller, max_new_tokens, layer, most=None)


def _inspected(
    plan: Plan, caller: Caller, max_new_tokens: int, layer: int, most: int | None
) -> tuple[Inspection, ...]:
    if max_new_tokens < 1:
        raise UserError(
            f"max_new_tokens: {max_new_tokens} is too few; use at least 1.",
            kind="too_few",
            name="max_new_tokens",
        )
    with caller.open_engine(plan) as engine:
        planned = plan_cases(plan, environment=engine.environment())
        # The baseline always runs.
        cases = [replace(case, max_new_tokens=max_new_tokens) for case in planned]
        cases = [case for case in dict.fromkeys(cases) if case.cache != BASELINE]
        _check_alike(cases, most)
        engine.check(group_cases(cases))
        open_model(engine, cases[0].model_key, caller.emit)
        return tuple(engine.inspect(case, layer) for case in cases)


def _check_alike(cases: Sequence[Case], most: int | None) -> None:
    """Reject cases that differ in more than the strategy, or more strategies than `most`."""
    if len({replace(case, cache=BASELINE) for case in cases}) != 1:
        raise UserError(
            f"inspect takes a single case besides '{BASELINE}', but the options describe "
            f"{len(cases)}: use one model, device, dtype, prompt, batch size and cache.",
            kind="one_case_only",
        )
    if most is not None and len(cases) > most:
        raise UserError(
            f"inspect compares one cache with '{BASELINE}', but {len(cases)} are named; --format "
            "html shows several side by side.",
            kind="one_cache_only",
        )


def open_model(engine: Engine, model: ModelKey, emit: Listener) -> None:
    """Load a model unless it is open.

    Raises:
        UserError: it cannot be loaded.
    """
    if engine.open_model == model:
        return
    emit(ModelLoading(model))
    loaded = engine.open(model)
    emit(loaded)
    if isinstance(loaded, LoadFailed):
        raise UserError(loaded.error, kind="not_loaded")


def free_bytes(device: str | None, caller: Caller) -> int:
    """Return the free memory of a device; see kvbench.api.free_bytes."""
    with caller.open_engine() as engine:
        machine = engine.environment()
        present = tuple(d.name for d in machine.devices)
        if device is None:
            device = next((name for name in present if not kind_of(name).is_host), HOST)
        with naming_what_is_missing(machine):
            (name,) = choose_devices([device], present)
        return engine.free_bytes(name)


def probe(devices: Sequence[str], caller: Caller) -> tuple[Rates, ...]:
    """Measure and store the rates of devices; see kvbench.api.probe."""
    emit = caller.emit
    # Check this before the probe, which takes seconds. The rates are useful without a store, too.
    problem = store_problem()
    if problem is None:
        read_rates()
    else:
        emit(Notice(f"the rates will not be stored: {problem}"))
    with caller.open_engine() as engine:
        machine = engine.environment()
        present = tuple(d.name for d in machine.devices)
        with naming_what_is_missing(machine):
            names = choose_devices(devices or present, present)
        found = []
        for name in names:
            emit(Notice(f"probing {name} ({machine.hardware(name)}) ..."))
            found.append(engine.probe(name))
            if problem is None:
                try:
                    keep_rates(found[-1])
                except OSError as error:
                    # The disk may have filled up meanwhile.
                    emit(Notice(f"the rates of {name} were not stored: {error.strerror or error}"))
        return tuple(found)
