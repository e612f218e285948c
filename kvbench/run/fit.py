"""Search for the largest batch or context that really fits, with each cache strategy of a plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kvbench.device_kinds import kind_of
from kvbench.errors import UserError
from kvbench.methods import Job, JobResult
from kvbench.models.config_file import find_config
from kvbench.plan.axes import STRATEGY_AXES
from kvbench.plan.case import Case, Prompt, Task, group_cases
from kvbench.plan.plan import Plan
from kvbench.records.events import Listener, LoadFailed, ModelLoading, Notice
from kvbench.records.fit import Find, FitResult, FitStatus
from kvbench.run.engine import Engine
from kvbench.run.machine import Caller, plan_cases
from kvbench.run.search import largest_that_fits
from kvbench.theory.advice import UNBOUNDED, largest_batch, longest_context, needed_bytes
from kvbench.theory.architecture import FAMILIES, Architecture, family_of
from kvbench.theory.estimate import max_positions
from kvbench.theory.work import Work

__all__ = ["fit"]

_MOST_BATCH = 4096
_FIRST_CONTEXT, _CONTEXT_STEP = 64, 16
_PARTS = 16
"""The search stops within a sixteenth of the largest size that fits; small sizes are exact."""


def fit(
    plan: Plan, caller: Caller, *, find: Find, most: int | None, memory_limit: int | None
) -> tuple[FitResult, ...]:
    """Find what fits for each strategy of a plan; see kvbench.api.fit."""
    with caller.open_engine(plan, memory_limit) as engine:
        cases = _one_of_each(plan_cases(plan, environment=engine.environment()))
        for case in cases:
            if memory_limit is not None and not kind_of(case.device).is_host:
                raise UserError(
                    f"--memory-limit: applies only to a CPU, not to the memory of {case.device}.",
                    kind="not_supported",
                    name="--memory-limit",
                )
            if find == "context" and most is not None and most < case.max_new_tokens:
                raise UserError(
                    f"--most: a context of {most} is too small for {case.max_new_tokens} new "
                    "tokens; use more, or fewer new tokens.",
                    kind="too_few",
                    name="--most",
                )
        small = [_sized(case, "batch", 1) for case in cases]
        engine.check(group_cases(small))
        searches = (_Search(engine, case, find, most, plan, caller.emit) for case in cases)
        return tuple(
            replace(search.result(), memory_limit_bytes=memory_limit) for search in searches
        )


def _one_of_each(cases: tuple[Case, ...]) -> list[Case]:
    """Return one case of each model and strategy.

    Raises:
        UserError: they have several sizes or texts as prompts.
    """
    found = {tuple(getattr(case, name) for name in STRATEGY_AXES): case for case in cases}
    if len(found) < len(cases) or any(case.prompt.tokens is None for case in cases):
        raise UserError(
            "fit takes one size: a single batch size, number of prompt tokens and number of new "
            "tokens.",
            kind="one_case_only",
        )
    return list(found.values())


def _sized(case: Case, find: Find, size: int) -> Case:
    if find == "batch":
        return replace(case, batch_size=size)
    # The last new token is never fed, so it takes no position.
    return replace(case, prompt=Prompt.of_tokens(max(size - case.max_new_tokens + 1, 1)))


class _Ended(Exception):
    """A generation failed for a reason other than memory, so the search has no answer."""


@dataclass
class _Search:
    """The search for one strategy: it opens the model again after each loss."""

    engine: Engine
    case: Case
    find: Find
    most: int | None
    plan: Plan
    emit: Listener
    room_bytes: int | None = None
    lost: str | None = None

    def result(self) -> FitResult:
        """Search, and return the row."""
        # A process of its own: the one before may have left its memory in pieces.
        self.engine.close()
        try:
            self._open()
            unmet = self.engine.unmet(self.case.cache)
            if unmet is not None:
                return self._row("unsupported", reason=unmet)
            config, known = self._theory()
            most = self._most(config)
            predicted = self._predicted(known, most)
            # A context holds at least the new tokens, whose prompt is then a single one.
            least, first, step = 1, 1, 1
            if self.find == "context":
                least, step = self.case.max_new_tokens, _CONTEXT_STEP
                first = max(least, _FIRST_CONTEXT)
            # Large sizes take long: theory saves the small ones.
            first = max(first, (predicted or 0) // 2)
            found = largest_that_fits(
                self._fits, first=first, most=most, least=least, step=step, parts=_PARTS
            )
        except _Ended as ended:
            return self._row("failed", reason=str(ended))
        status: FitStatus = "found" if found.largest else "nothing_fits"
        return self._row(
            "at_most" if found.fails_at is None else status,
            largest=found.largest,
            fails_at=found.fails_at,
            predicted=predicted,
            needed_bytes=self._needed(known, found.largest),
            attempts=found.attempts,
            reason=self.lost,
        )

    def _fits(self, size: int) -> bool:
        self._open()
        case = _sized(self.case, self.find, size)
        task = Task(case, "measure", 0, 0, case.max_new_tokens)
        done = self.engine.run(Job((task,), "each"), self.plan.case_timeout)
        fits = self._ended(done)
        name = f"{self.case.cache}: {self.find} {size:,}"
        self.emit(Notice(f"{name}: {'fits' if fits else 'out of memory'}"))
        return fits

    def _ended(self, done: JobResult) -> bool:
        if done.status == "ok":
            return True
        error = str(done.fields.get("error") or done.status)
        # What ran out of memory may have left its process in pieces: use another one.
        self.engine.close()
        if done.status == "crashed":
            # Libraries end the process when they get no memory.
            self.lost = error
        elif done.status != "oom":
            raise _Ended(error)
        return False

    def _open(self) -> None:
        key = self.case.model_key
        if self.engine.open_model == key:
            return
        first = self.room_bytes is None
        if first:
            self.emit(ModelLoading(key))
        loaded = self.engine.open(key)
        if isinstance(loaded, LoadFailed):
            raise _Ended(loaded.error)
        if first:
            self.emit(loaded)
            self.room_bytes = loaded.room_bytes

    def _theory(self) -> tuple[dict[str, Any], Architecture | None]:
        """Return the model's configuration and its architecture, as far as they can be read."""
        config: dict[str, Any] = {}
        with contextlib.suppress(UserError):
            config = dict(find_config(self.case.model))
            if family_of(config) in FAMILIES:
                return config, Architecture.from_config(config)
            return config, Architecture.from_shapes(self.engine.shapes(config))
        return config, None

    def _work(self, size: int) -> Work:
        case = _sized(self.case, self.find, size)
        return Work(
            batch=case.batch_size,
            prompt_tokens=case.prompt.tokens or 1,
            new_tokens=case.max_new_tokens,
            dtype=case.dtype,
        )

    def _predicted(self, known: Architecture | None, most: int) -> int | None:
        """Return what fits as far as theory knows, and no more than is tried."""
        most_of: dict[Find, Callable[[Architecture, Work, str, int], int]]
        most_of = {"batch": largest_batch, "context": longest_context}
        if known is None or self.room_bytes is None:
            return None
        if known.encoder and self.find == "context":
            # Here it is the encoder's prompt that grows, and not the decoder's positions.
            return None
        with contextlib.suppress(UserError):
            size = most_of[self.find](known, self._work(1), self.case.cache, self.room_bytes)
            return min(size, most)
        return None

    def _needed(self, known: Architecture | None, size: int) -> int | None:
        if known is not None and size:
            with contextlib.suppress(UserError):
                return needed_bytes(known, self._work(size), self.case.cache)
        return None

    def _most(self, config: dict[str, Any]) -> int:
        if self.find == "batch":
            return self.most or _MOST_BATCH
        positions = max_positions(config) or UNBOUNDED
        return min(self.most or UNBOUNDED, positions)

    def _row(self, status: FitStatus, **fields: Any) -> FitResult:
        case, batch = self.case, self.find == "batch"
        return FitResult(
            **{name: getattr(case, name) for name in STRATEGY_AXES},
            find=self.find,
            status=status,
            batch_size=None if batch else case.batch_size,
            prompt_tokens=case.prompt.tokens if batch else None,
            max_new_tokens=case.max_new_tokens,
            room_bytes=self.room_bytes,
            **fields,
        )
