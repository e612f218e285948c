"""Checks: what was found of the strategies, kept as it comes, and when it is asked again."""

from __future__ import annotations

from collections.abc import Callable

from kvbench.plan.case import Case, ModelKey
from kvbench.records.check import Check
from kvbench.records.events import Notice
from kvbench.run.recording import Recorder
from kvbench.run.state import EngineState, SweepState

__all__ = ["CheckKeeper"]

_MOST_LOST_CHECKS = 2
"""So often a check is made again whose process was lost."""


class CheckKeeper:
    """Learns from the checks that an engine has made.

    Args:
        is_gone: whether the process of an engine was lost.
    """

    def __init__(
        self, state: SweepState, rows: Recorder, is_gone: Callable[[EngineState], bool]
    ) -> None:
        self._state = state
        self._rows = rows
        self._is_gone = is_gone

    def learn(self, engine: EngineState, case: Case, checks: tuple[Check, ...]) -> None:
        """Keep the checks of a strategy; ask once more if its process was lost over them."""
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
        """Write what a strategy was found to do, and ask no more about it."""
        model, cache = key
        self._state.verified.add(key)
        self._state.cut.pop(key, None)
        if engine.session is not None:
            engine.session.remember("verification")
        self._rows.writer.append_checks(checks)
        self._rows.keep_log(engine.number, f"verifying {cache} on {model.label}")
        self._rows.report(model, cache)

    def learn_comparison(self, engine: EngineState, case: Case, checks: tuple[Check, ...]) -> None:
        """Keep what a look at the tokens of a case has come to."""
        self._state.compared.add(case.id)
        self._rows.writer.append_checks(checks)
        self._rows.keep_log(engine.number, f"comparing the tokens of {case.label}")
        self._rows.report(case.model_key, case.cache)
        if self._is_gone(engine):
            # It says so itself.
            engine.lose()
