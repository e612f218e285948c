"""Measure how the lossy strategies of a run change the output, and add it to the run."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from kvbench.caches import strategy
from kvbench.errors import UserError
from kvbench.plan.case import ModelKey, group_cases
from kvbench.plan.texts import Text
from kvbench.records.lock import held
from kvbench.records.quality import Quality, QualitySize, append_qualities
from kvbench.records.run import RunInfo, load_info, load_run
from kvbench.report.build import build
from kvbench.run.machine import Caller
from kvbench.run.reading import announcement
from kvbench.run.resume import cases_of
from kvbench.run.single import open_model
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
            open_model(engine, model, caller.emit)
            caller.emit(announcement(model, cache, text))
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
