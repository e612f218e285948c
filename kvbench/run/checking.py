"""Keep verification results as they arrive, and decide when to ask again."""

from __future__ import annotations

from collections.abc import Callable

from kvbench.plan.case import Case, ModelKey
from kvbench.records.check import Check
from kvbench.records.events import Notice
from kvbench.run.recording import Recorder
from kvbench.run.state import EngineState, SweepState

__all__ = ["CheckKeeper"]

_MOST_LOST_CHECKS = 2
"""How often a check is repeated after its process was lost."""


class CheckKeeper:
    """Learn from the checks that an engine made.

    Args:
        is_gone: returns whether the process of an engine was lost.
    """

    def __init__(
        self, state: SweepState, rows: Recorder, is_gone: Callable[[EngineState], bool]
    ) -> None:
        self._state = state
        self._rows = rows
        self._is_gone = is_gone

    def learn(self, engine: EngineState, case: Case, checks: tuple[Check, ...]) -> None:
        """Keep the checks of a strategy; ask once more if its process was lost during them."""
        key = case.model_key, case.cache
        if self._is_gone(engine):
            engine.lose()
            cut = self._state.cut.setdefault(key, [])
            cut.append(checks)
            if len(cut) <= _MOST_LOST_CHECKS:
                details = (check.detail for check in checks if check.verdict == "not_finished")
                why = next(details, "the worker process was lost.")
                self._rows.emit(Notice(f"verifying {case.cache} again: {why}"))
                return
        self.keep(engine, key, checks)

    def keep(
        self, engine: EngineState, key: tuple[ModelKey, str], checks: tuple[Check, ...]
    ) -> None:
        """Write the result for a strategy, and do not check it again."""
        model, cache = key
        self._state.verified.add(key)
        self._state.cut.pop(key, None)
        if engine.session is not None:
            engine.session.remember("verification")
        self._rows.writer.append_checks(checks)
        self._rows.keep_log(engine.number, f"verifying {cache} on {model.label}")
        self._rows.report(model, cache)

    def learn_comparison(self, engine: EngineState, case: Case, checks: tuple[Check, ...]) -> None:
        """Keep the outcome of comparing the tokens of a case."""
        self._state.compared.add(case.id)
        self._rows.writer.append_checks(checks)
        self._rows.keep_log(engine.number, f"comparing the tokens of {case.label}")
        self._rows.report(case.model_key, case.cache)
        if self._is_gone(engine):
            # The check reports this itself.
            engine.lose()
