"""Record rows: each one is on disk before anything else happens, and then reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvbench.plan.case import ModelKey
from kvbench.records.events import CaseEnded, Listener, Notice, SampleEnded, Verified
from kvbench.records.finding import Finding
from kvbench.records.sample import Sample, Status, sample_of
from kvbench.records.writer import RunWriter
from kvbench.run.engine import Engine
from kvbench.run.progress import CaseProgress

__all__ = ["Outcome", "Recorder"]


@dataclass
class Outcome:
    """The outcome of a sweep.

    Attributes:
        failed: number of cases that a failed sample ended.
        interrupted: whether it stopped before the end.
        loaded: how often a model was loaded.
        load_errors: errors that the user can fix, about models that did not load.
        notes: lines about devices, each once.
        verify_s: seconds spent on verification.
        quality_s: seconds spent on measuring quality.
    """

    failed: int = 0
    interrupted: bool = False
    loaded: int = 0
    load_errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verify_s: float = 0.0
    quality_s: float = 0.0


class Recorder:
    """Write the rows of a sweep, and track its cases.

    Args:
        engines: the engines, for their process numbers and the last output of lost processes.
    """

    def __init__(self, engines: Sequence[Engine], writer: RunWriter, emit: Listener) -> None:
        self.outcome = Outcome()
        self.emit = emit
        self.writer = writer
        self._engines = engines
        # Numbers of the worker processes of this session, from 0 without gaps.
        self._workers: dict[tuple[int, int], int] = {}

    def record(
        self,
        engine: int,
        arm: CaseProgress,
        sample: Sample,
        times: Sequence[float] = (),
        *,
        again: bool = False,
    ) -> None:
        """Write a row and learn from it; `again`: its process was lost, perhaps not its fault."""
        row = self.write(engine, sample, times)
        if again:
            arm.note_loss(row)
            # A generation is named once, not with each length that is read from it.
            if not arm.ended and row.generation_id in (None, row.sample_id):
                self.emit(Notice(f"measuring {row.sample_id} again: {row.error}"))
        else:
            arm.note(row)
        # The sample that ends one member of a group may be what the others were kept waiting for.
        for one in arm.pair:
            if one.ended and not one.end_told:
                one.end_told = True
                self.outcome.failed += one.failure is not None
                self.emit(CaseEnded(one.case, one.counted, one.failure))

    def write(self, engine: int, sample: Sample, times: Sequence[float] = ()) -> Sample:
        """Write a row that a case does not learn from, and return it as written."""
        # Written before anything else, so a later failure loses nothing.
        process = (engine, self._engines[engine].process)
        worker = self._workers.setdefault(process, len(self._workers))
        row = self.writer.append(dataclasses.replace(sample, worker=worker), times)
        self.emit(SampleEnded(row))
        if row.status != "ok":
            self.keep_log(engine, row.sample_id)
        return row

    def fail(self, engine: int, arm: CaseProgress, status: Status, **fields: object) -> None:
        """Write a row for a case that ends without a sample."""
        task = arm.task("measure", len(arm.measured), arm.case.max_new_tokens)
        self.record(engine, arm, sample_of(task, status=status, **fields))

    def report(self, model: ModelKey, cache: str) -> None:
        """Report the current result of a strategy's checks."""
        found = self.finding(model, cache)
        if found is not None:
            self.emit(Verified(found))

    def finding(self, model: ModelKey, cache: str) -> Finding | None:
        """Return the verification result of a strategy on a model in this environment."""
        return self.writer.finding(model, cache)

    def keep_log(self, engine: int, title: str) -> None:
        """Keep the last output of a lost process, if there is any."""
        self.writer.keep_log(title, self._engines[engine].take_log())

    def tell(self, notice: str) -> None:
        """Report a line about a device once, and keep it for run.json."""
        if notice not in self.outcome.notes:
            self.outcome.notes.append(notice)
            self.emit(Notice(notice))
