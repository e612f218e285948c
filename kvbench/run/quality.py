"""Measure how the lossy strategies of a run change the output, and add it to the run."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from kvbench.caches import strategy
from kvbench.errors import UserError
from kvbench.plan.case import ModelKey, group_cases
from kvbench.plan.texts import Text
from kvbench.records.events import Listener, LoadFailed, ModelLoading, Notice
from kvbench.records.lock import held
from kvbench.records.quality import Quality, QualitySize, append_qualities
from kvbench.records.run import RunInfo, load_info, load_run
from kvbench.report.build import build
from kvbench.run.machine import Caller
from kvbench.run.resume import cases_of
from kvbench.run.supervisor import WorkerEngine

__all__ = ["measure_quality"]


def measure_quality(
    path: Path, text: Text, size: QualitySize, caller: Caller, *, trust_remote_code: bool
) -> tuple[Quality, ...]:
    """Measure the lossy strategies of a run one by one; see kvbench.api.measure_quality."""
    info = load_info(path)
    wanted = _lossy(info)
    if not wanted:
        raise UserError(f"{path}: none of its cache strategies is lossy.", kind="nothing_lossy")
    rows: list[Quality] = []
    engine = WorkerEngine(
        seed=int(info.plan.get("seed") or 0), trust_remote_code=trust_remote_code, stop=caller.stop
    )
    with closing(engine), held(path):
        for model, cache in wanted:
            # Load again after a strategy that cost the process.
            _open(engine, model, caller.emit)
            caller.emit(Notice(f"{model.label}: reading {text.name} with {cache} ..."))
            row = replace(engine.quality(cache, text, size), session=len(info.resumes))
            append_qualities(path, [row])
            rows.append(row)
        build((load_run(path),), path)
    return tuple(rows)


def _lossy(info: RunInfo) -> list[tuple[ModelKey, str]]:
    """Return the models of a run, each with its lossy strategies, in the run's order."""
    return list(
        dict.fromkeys(
            (group.model, case.cache)
            for group in group_cases(cases_of(info))
            for case in group.cases
            if strategy(case.cache).lossy
        )
    )


def _open(engine: WorkerEngine, model: ModelKey, emit: Listener) -> None:
    if engine.open_model == model:
        return
    emit(ModelLoading(model))
    loaded = engine.open(model)
    emit(loaded)
    if isinstance(loaded, LoadFailed):
        raise UserError(loaded.error, kind="not_loaded")
