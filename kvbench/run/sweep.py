"""A sweep: which steps are due, and how the answers of the engines change its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kvbench.methods import JobResult, rows_of
from kvbench.plan.case import Case, ModelKey
from kvbench.plan.texts import default_text
from kvbench.records.events import (
    Listener,
    LoadFailed,
    ModelLoaded,
    ModelLoading,
    SampleStarted,
    Verifying,
)
from kvbench.records.finding import VERIFY_FAILED
from kvbench.records.quality import Quality, load_qualities
from kvbench.records.sample import Sample, sample_of, with_flag
from kvbench.records.writer import RunWriter
from kvbench.run.checking import CheckKeeper
from kvbench.run.engine import Engine
from kvbench.run.progress import MOST_LOSSES, CaseProgress
from kvbench.run.reading import QualityKeeper, announcement, unread
from kvbench.run.recording import Outcome, Recorder
from kvbench.run.schedule import Assignment, next_jobs, too_large
from kvbench.run.state import Conduct, EngineState, ModelSession, SweepState
from kvbench.run.steps import Compare, Load, ReadText, Reply, RunJob, Step, Verify
from kvbench.run.warmup import covered, scope_of

__all__ = ["Sweep"]

_MOST_LOADS = 3
"""How often a model is loaded again after its process was lost; then its cases fail."""


class Sweep:
    """The state of a sweep and its run folder: what is due, and what an answer changes.

    It only asks engines whether their process is alive, so a driver may keep several of them busy
    at the same time.
    """

    def __init__(
        self,
        progress: Mapping[Case, CaseProgress],
        engines: Sequence[Engine],
        writer: RunWriter,
        emit: Listener,
        conduct: Conduct,
    ) -> None:
        self.state = SweepState.of(progress, conduct)
        self.engines = [EngineState(number) for number in range(len(engines))]
        self._engines = engines
        self._rows = Recorder(engines, writer, emit)
        self._checks = CheckKeeper(self.state, self._rows, self._is_gone)
        self._qualities = QualityKeeper(self.state, self._rows, self._is_gone)
        if conduct.quality:
            self.state.unread = unread(progress, load_qualities(writer.path))
        self._begun: set[ModelKey] = set()
        self.state.compared |= {check.case_id for check in writer.checks if check.case_id}
        for model, work in self.state.models.items():
            for cache in dict.fromkeys(one.case.cache for one in work.members):
                found = writer.finding(model, cache)
                if found is not None and found.verdict != "not_finished":
                    self.state.verified.add((model, cache))

    @property
    def outcome(self) -> Outcome:
        """The outcome of the sweep so far."""
        return self._rows.outcome

    def due(self) -> tuple[Assignment, ...]:
        """Return the steps that idle engines should take now."""
        return next_jobs(self.state, self.engines)

    def begin(self, assignment: Assignment) -> bool:
        """Bind a step to its engine and announce it; return whether to carry it out.

        It is not carried out if the rows have changed what is due, or if the process was lost in
        between.
        """
        engine, step = self.engines[assignment.engine], assignment.step
        if assignment.turn.model not in self._begun:
            self._begun.add(assignment.turn.model)
            if self._skip_after_resume(engine, assignment.turn.model):
                return False
        engine.turn, engine.model = assignment.turn, assignment.turn.model
        for group in assignment.groups:
            group.home = engine.number
        if not isinstance(step, Load) and self._is_gone(engine):
            self._lose_in_waiting(engine, self.state.member(step.case))
            return False
        engine.busy = True
        if isinstance(step, ReadText):
            self.state.reading.add((step.case.model_key, step.case.cache))
        self._announce(step)
        return True

    def learn(self, assignment: Assignment, reply: Reply) -> None:
        """Process the answer to a step."""
        engine, step = self.engines[assignment.engine], assignment.step
        engine.busy = False
        if isinstance(step, Load):
            assert isinstance(reply, (ModelLoaded, LoadFailed))
            self._learn_load(engine, step, reply)
        elif isinstance(step, RunJob):
            assert isinstance(reply, JobResult)
            self._learn_job(engine, step, reply)
        elif isinstance(step, ReadText):
            assert isinstance(reply, Quality)
            self._qualities.learn(engine, step.case, reply)
        else:
            assert isinstance(reply, tuple)
            learn = (
                self._checks.learn if isinstance(step, Verify) else self._checks.learn_comparison
            )
            learn(engine, step.case, reply)

    def _announce(self, step: Step) -> None:
        if isinstance(step, Load):
            self._rows.emit(ModelLoading(step.model))
        elif isinstance(step, RunJob):
            self._rows.emit(SampleStarted(step.job.task))
        elif isinstance(step, ReadText):
            self._rows.emit(announcement(step.case.model_key, step.case.cache, default_text()))
        # Repeated after a loss: the announced work continues.
        elif isinstance(step, Compare) or (step.case.model_key, step.case.cache) not in (
            self.state.cut
        ):
            self._rows.emit(Verifying(step.case.model_key, step.case.cache))

    # Loads

    def _learn_load(
        self, engine: EngineState, step: Load, loaded: ModelLoaded | LoadFailed
    ) -> None:
        self._rows.emit(loaded)
        if isinstance(loaded, ModelLoaded):
            engine.deaths = 0
            engine.session = ModelSession(step.model, loaded.needs_memory_pass, loaded.room_bytes)
            self.outcome.loaded += 1
            self._rows.writer.keep_config(step.model.model, loaded.config)
            for notice in loaded.notices:
                self._rows.tell(notice)
            return
        engine.session = None
        self._rows.keep_log(engine.number, f"loading {step.model.label}")
        if all(group.ended for group in self.state.models[step.model].groups):
            self._qualities.give_up(step.model, loaded.error)
            return
        engine.deaths += loaded.died
        if not loaded.died or engine.deaths == _MOST_LOADS:
            engine.deaths = 0
            self._fail_to_load(engine, step.model, loaded)
            return
        # A process may be killed while loading through no fault of the model: load again.
        arm = self.state.member(step.case)
        task = arm.task("measure", len(arm.measured), arm.case.max_new_tokens)
        lost = sample_of(task, status=loaded.status, stage="load", error=loaded.error)
        arm.remember_lost(self._rows.write(engine.number, lost))

    def _fail_to_load(self, engine: EngineState, model: ModelKey, loaded: LoadFailed) -> None:
        if loaded.status == "unsupported":
            self.outcome.load_errors.append(loaded.error)
        for cut in [key for key in self.state.cut if key[0] == model]:
            self._checks.keep(engine, cut, self.state.cut[cut][-1])
        # If another engine has the model, groups not bound to this engine are left to it.
        engine.barred.add(model)
        shared = any(one.session and one.session.model == model for one in self.engines)
        for group in self.state.models[model].groups:
            if group.home == engine.number or (group.home is None and not shared):
                for member in group.members:
                    if not member.ended:
                        fields = {"error": loaded.error, "oom_bytes": loaded.oom_bytes}
                        self._rows.fail(
                            engine.number, member, loaded.status, stage="load", **fields
                        )

    # Samples

    def _learn_job(self, engine: EngineState, step: RunJob, result: JobResult) -> None:
        lost = result.status != "ok" and self._is_gone(engine)
        turn = engine.turn
        tasks = {task.sample_id: task for task in step.job.tasks}
        # The longest first: the stamps in its row are those of the others.
        for sample, times in reversed(rows_of(step.job, result)):
            task = tasks[sample.sample_id]
            arm = self.state.member(task.case)
            sample = self._with_context(engine, sample, task.case)
            self._rows.record(
                engine.number, arm, sample, times, again=lost and sample.status == "crashed"
            )
            if sample.status == "ok" and task.phase == "warmup":
                self._note_warm(engine, task.case)
            elif sample.status == "ok" and task.phase == "measure" and turn is not None:
                turn.taken.add(task.case)
            elif sample.status == "oom" and not self.state.conduct.keep_going_after_oom:
                self._skip_larger(engine, arm, sample)
        if turn is not None and turn.taken:
            left = [one for one in turn.order if one.failure is None]
            if all(one.case in turn.taken for one in left):
                for one in left:
                    one.losses = 0
        if lost:
            engine.lose()

    def _with_context(self, engine: EngineState, sample: Sample, case: Case) -> Sample:
        """Add what only the sweep knows: what ran before, and the verification result."""
        session = engine.session
        assert session is not None
        if sample.phase == "warmup" and scope_of(case, self.state.conduct.warmup) != "short":
            before = ", ".join(session.ran) or "nothing"
            sample = dataclasses.replace(sample, cold_after=before)
        if sample.status == "oom":
            sample = dataclasses.replace(sample, room_bytes=session.room_bytes)
        session.remember(case.cache)
        finding = self._rows.finding(case.model_key, case.cache)
        failed = finding is not None and finding.verdict == "fail"
        return with_flag(sample, VERIFY_FAILED) if failed else sample

    def _note_warm(self, engine: EngineState, case: Case) -> None:
        """Record what a warm-up covers. A case that owes its own warm-up stays cold."""
        assert engine.session is not None
        members = {
            one.case: one
            for one in self.state.models[case.model_key].members
            if not one.ended and not one.owes_warmup
        }
        engine.session.warm.update(covered(case, members, self.state.conduct.warmup))

    # Losses and memory

    def _is_gone(self, engine: EngineState) -> bool:
        return self._engines[engine.number].open_model is None

    def _lose_in_waiting(self, engine: EngineState, arm: CaseProgress) -> None:
        # This costs a restart and no sample; but not forever, or the sweep would not end.
        engine.lose()
        self._rows.keep_log(
            engine.number, f"waiting for {arm.case.label} on {arm.case.model_key.label}"
        )
        if not arm.ended:
            arm.losses += 1
            if arm.losses >= MOST_LOSSES:
                error = "the worker process was lost again and again while it waited"
                self._rows.fail(engine.number, arm, "crashed", error=error)

    def _skip_after_resume(self, engine: EngineState, model: ModelKey) -> bool:
        """Apply earlier out-of-memory rows too: a kill may have come before the skips."""
        if self.state.conduct.keep_going_after_oom:
            return False
        skipped = False
        for member in list(self.state.models[model].members):
            if member.failure is not None and member.failure.status == "oom":
                skipped |= self._skip_larger(engine, member, member.failure)
        return skipped

    def _skip_larger(self, engine: EngineState, proof: CaseProgress, sample: Sample) -> bool:
        groups = self.state.models[proof.case.model_key].groups
        # Another engine may be working on a sample of its groups.
        own = [one for group in groups if group.open_to(engine.number) for one in group.members]
        larger = too_large(proof, own)
        for member in larger:
            error = (
                f"needs at least as much memory as {sample.sample_id} ({proof.case.label}), which "
                "ran out of it"
            )
            self._rows.fail(engine.number, member, "skipped_oom", error=error)
        return bool(larger)
