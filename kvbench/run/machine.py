"""The machine: the engine that measures on it, its environment, and the cases of a plan on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

from kvbench.device_kinds import kind_of
from kvbench.errors import UserError
from kvbench.methods import with_fallback
from kvbench.plan.case import Case
from kvbench.plan.plan import Plan
from kvbench.records.environment import Environment
from kvbench.records.events import Event, Listener
from kvbench.run.engine import Engine
from kvbench.run.supervisor import WorkerEngine

__all__ = ["Caller", "look", "naming_what_is_missing", "plan_cases"]


def _ignore(event: Event) -> None:
    """Do nothing, for callers without a listener."""


@dataclass(frozen=True)
class Caller:
    """What the caller of the library provides besides the work itself.

    Attributes:
        listener: called with each event.
        stop: called between samples; return True to end after the current sample.
        engine: the engine; by default a worker process.
    """

    listener: Listener | None = None
    stop: Callable[[], bool] = lambda: False
    engine: Engine | None = None

    @property
    def emit(self) -> Listener:
        """The listener, or one that does nothing."""
        return self.listener or _ignore

    def open_engine(
        self, plan: Plan | None = None, memory_limit: int | None = None
    ) -> AbstractContextManager[Engine]:
        """Yield an engine with the settings of a plan, and close it at the end.

        `memory_limit` is in bytes, for each of its processes.
        """
        return closing(self.engine or self._worker(plan, memory_limit))

    def _worker(self, plan: Plan | None, memory_limit: int | None) -> Engine:
        if plan is None:
            return WorkerEngine(stop=self.stop, memory_limit=memory_limit)
        return WorkerEngine(
            seed=plan.seed,
            trust_remote_code=plan.trust_remote_code,
            step_timeout_s=plan.case_timeout,
            stop=self.stop,
            memory_limit=memory_limit,
        )


def plan_cases(
    plan: Plan, *, allow_many: bool = False, environment: Environment | None = None
) -> tuple[Case, ...]:
    """Return the cases of a plan on this machine. Looks for GPUs only if the plan may use one.

    Args:
        plan: what to measure.
        allow_many: accept a grid of more than 10,000 cases.
        environment: the machine, if already known.

    Raises:
        UserError: a device is not present, or the grid is too large.
    """
    if not plan.needs_devices():
        return with_fallback(plan.cases(("cpu",), allow_many=allow_many))
    machine = environment or look()
    with naming_what_is_missing(machine):
        present = tuple(d.name for d in machine.devices)
        return with_fallback(plan.cases(present, allow_many=allow_many))


def look() -> Environment:
    """Return the machine and the software. Starts a process to find out."""
    with closing(WorkerEngine()) as engine:
        return engine.environment()


@contextmanager
def naming_what_is_missing(machine: Environment) -> Iterator[None]:
    """When a device is refused, add the reason why there is none of its kind."""
    try:
        yield
    except UserError as error:
        wanted = error.fields["device"] if error.kind == "device_absent" else ""
        reason = machine.absent.get(kind_of(wanted).name)
        if reason is None:
            raise
        raise UserError(f"{error} {reason}", kind=error.kind, **error.fields) from error
