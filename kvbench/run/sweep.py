"""Carry a plan out: groups one after another, rounds inside a group, every row on disk at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kvbench.case import Case, Group, Task
from kvbench.measure.stopping import StoppingRule
from kvbench.records.events import (
    CaseEnded,
    Listener,
    LoadFailed,
    ModelLoading,
    Notice,
    SampleEnded,
    SampleStarted,
)
from kvbench.records.sample import Sample, sample_of
from kvbench.records.writer import RunWriter
from kvbench.run.engine import Engine
from kvbench.run.order import pair_up, shuffled, warmup_task

__all__ = ["Outcome", "run_groups"]


@dataclass
class Outcome:
    """What became of a sweep.

    Attributes:
        failed: cases that a failed sample ended.
        interrupted: whether it was stopped before the end.
        loaded: models that could be loaded.
        load_errors: what people can mend about models that did not load.
        notes: lines about devices, each once.
    """

    failed: int = 0
    interrupted: bool = False
    loaded: int = 0
    load_errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Progress:
    """How far one case has come."""

    case: Case
    measured: list[Sample] = field(default_factory=list)
    warm: bool = False
    ended: bool = False


def run_groups(
    groups: tuple[Group, ...],
    engine: Engine,
    writer: RunWriter,
    emit: Listener,
    *,
    rule: StoppingRule,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Measure all groups. `stop` is asked between samples; a sample in flight is finished."""
    outcome = Outcome()
    try:
        for index, group in enumerate(groups):
            if outcome.interrupted or stop():
                outcome.interrupted = True
                break
            rng = random.Random(f"{seed}:{index}")
            _GroupRun(group, engine, writer, emit, rule, rng, stop, outcome).run()
    finally:
        engine.close()
    return outcome


@dataclass
class _GroupRun:
    group: Group
    engine: Engine
    writer: RunWriter
    emit: Listener
    rule: StoppingRule
    rng: random.Random
    stop: Callable[[], bool]
    outcome: Outcome

    def run(self) -> None:
        self.emit(ModelLoading(self.group.model))
        loaded = self.engine.open(self.group.model)
        self.emit(loaded)
        if isinstance(loaded, LoadFailed):
            self._fail_all(loaded)
            return
        self.outcome.loaded += 1
        self._tell_notices()
        progress = {case: _Progress(case) for case in self.group.cases}
        pairs = pair_up(self.group.cases)
        round_number = 0
        while not self.outcome.interrupted:
            # A case that has ended drops out; its partner goes on alone.
            waiting = [
                left
                for pair in pairs
                if (left := tuple(case for case in pair if not progress[case].ended))
            ]
            if not waiting:
                return
            for pair in shuffled(waiting, self.rng):
                self._run_pair([progress[case] for case in pair], round_number)
            round_number += 1

    def _run_pair(self, pair: list[_Progress], round_number: int) -> None:
        # All arms are warm before any is timed, so that they run next to each other.
        for progress in pair:
            if not progress.warm and not self._stopped():
                self._prepare(progress)
        for progress in pair:
            if not progress.ended and not self._stopped():
                task = Task(
                    progress.case,
                    "measure",
                    round_number,
                    len(progress.measured),
                    progress.case.max_new_tokens,
                )
                self._take(progress, task)

    def _prepare(self, progress: _Progress) -> None:
        progress.warm = True
        self._take(progress, warmup_task(progress.case))
        if self.engine.needs_memory_pass and not progress.ended and not self._stopped():
            self._take(progress, Task(progress.case, "memory", 0, 0, progress.case.max_new_tokens))

    def _take(self, progress: _Progress, task: Task) -> None:
        self.emit(SampleStarted(task))
        sample, times = self.engine.measure(task)
        # Written before anything else is done, so that a later failure loses nothing.
        self.writer.append(sample, times)
        self.emit(SampleEnded(sample))
        if sample.status != "ok":
            self._end(progress, failure=sample)
        elif task.phase == "measure":
            progress.measured.append(sample)
            if self.rule.done([one.total_s or 0.0 for one in progress.measured]):
                self._end(progress, failure=None)

    def _end(self, progress: _Progress, failure: Sample | None) -> None:
        progress.ended = True
        self.outcome.failed += failure is not None
        self.emit(CaseEnded(progress.case, tuple(progress.measured), failure))

    def _fail_all(self, loaded: LoadFailed) -> None:
        if loaded.status == "unsupported":
            self.outcome.load_errors.append(loaded.error)
        for case in self.group.cases:
            task = Task(case, "measure", 0, 0, case.max_new_tokens)
            sample = sample_of(task, status=loaded.status, stage="load", error=loaded.error)
            self.writer.append(sample)
            self.emit(SampleEnded(sample))
            self._end(_Progress(case), failure=sample)

    def _tell_notices(self) -> None:
        for notice in self.engine.notices:
            if notice not in self.outcome.notes:
                self.outcome.notes.append(notice)
                self.emit(Notice(notice))

    def _stopped(self) -> bool:
        self.outcome.interrupted = self.outcome.interrupted or self.stop()
        return self.outcome.interrupted
