"""Reading: the quality of a sweep's lossy strategies, what is left of it and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kvbench.caches import strategy
from kvbench.plan.axes import MODEL_AXES, values_of
from kvbench.plan.case import Case, ModelKey
from kvbench.plan.texts import Text, default_text
from kvbench.records.events import Notice
from kvbench.records.quality import Quality, quality_of
from kvbench.run.progress import CaseProgress
from kvbench.run.recording import Recorder
from kvbench.run.state import EngineState, SweepState

__all__ = ["QualityKeeper", "announcement", "unread"]


def unread(
    progress: Mapping[Case, CaseProgress], rows: Iterable[Quality]
) -> dict[tuple[ModelKey, str], Case]:
    """Return the lossy strategies of pretrained models without a row, each with a case of theirs.

    One that has failed at all lengths is left out: its samples say why.
    """
    known = {row.subject for row in rows}
    found: dict[tuple[ModelKey, str], Case] = {}
    for case, one in progress.items():
        key = case.model_key, case.cache
        wanted = case.weights == "pretrained" and strategy(case.cache).lossy
        if wanted and (one.measured or not one.ended) and _subject(*key) not in known:
            found.setdefault(key, case)
    return found


def announcement(model: ModelKey, cache: str, text: Text) -> Notice:
    """Return what is said before a strategy is read with, which takes its time."""
    return Notice(f"{model.label}: reading {text.name} with {cache} ...")


class QualityKeeper:
    """Keeps the qualities that an engine has measured.

    Args:
        is_gone: whether the process of an engine was lost.
    """

    def __init__(
        self, state: SweepState, rows: Recorder, is_gone: Callable[[EngineState], bool]
    ) -> None:
        self._state = state
        self._rows = rows
        self._is_gone = is_gone

    def learn(self, engine: EngineState, case: Case, row: Quality) -> None:
        """Write a row. A process that was lost over it costs no sample, and is not tried again."""
        self._keep(case.model_key, case.cache, row)
        title = f"measuring the quality of {case.cache} on {case.model_key.label}"
        self._rows.keep_log(engine.number, title)
        if engine.session is not None:
            engine.session.remember("quality")
        if self._is_gone(engine):
            engine.lose()

    def give_up(self, model: ModelKey, error: str) -> None:
        """Write why there is no quality of what is left of a model, which did not load again."""
        for key in [key for key in self._state.unread if key[0] == model]:
            self._keep(*key, quality_of(*key, default_text(), reason=error))

    def _keep(self, model: ModelKey, cache: str, row: Quality) -> None:
        self._state.unread.pop((model, cache), None)
        self._state.reading.discard((model, cache))
        self._rows.writer.append_qualities([row])
        if row.reason is not None:
            self._rows.emit(
                Notice(f"{model.label}: no quality of {cache} was measured: {row.reason}")
            )


def _subject(model: ModelKey, cache: str) -> tuple[str, ...]:
    return (*values_of(model, MODEL_AXES), cache)
