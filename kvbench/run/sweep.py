"""Carry a plan out: groups one after another, rounds inside a group, every row on disk at once."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kvbench.caches import BASELINE
from kvbench.measure.stopping import StoppingRule
from kvbench.methods import rows_of
from kvbench.methods.each import EACH
from kvbench.plan.case import Case, Group, Task
from kvbench.records.events import (
    CaseEnded,
    Listener,
    LoadFailed,
    ModelLoaded,
    ModelLoading,
    Notice,
    SampleEnded,
    SampleStarted,
    Verified,
    Verifying,
)
from kvbench.records.finding import VERIFY_FAILED, Finding
from kvbench.records.sample import Sample, Status, sample_of, with_flag
from kvbench.records.writer import RunWriter
from kvbench.run.engine import Engine, Interrupted
from kvbench.run.order import shuffled
from kvbench.run.outputs import differing
from kvbench.run.progress import MOST_LOSSES, CaseProgress
from kvbench.run.reach import reach_of
from kvbench.run.warmup import covered, longest, scope_of, warmup_tokens

__all__ = ["Conduct", "Outcome", "run_groups"]

_MOST_LOADS = 3
"""So often a model is loaded whose process was lost over it; then its cases fail."""

_MOST_LOST_CHECKS = 2
"""So often a check is made again whose process was lost."""


@dataclass(frozen=True)
class Conduct:
    """How a sweep is carried out.

    Attributes:
        rule: how many samples of a case are enough.
        seed: of the order of the cases.
        case_timeout_s: a case is ended once its samples have taken so long.
        keep_going_after_oom: also measure cases that need more than one that ran out of memory.
        warmup: the plan's key: auto, full or a number of tokens.
        verify: prove once for each model and strategy that the cache does the same work.
    """

    rule: StoppingRule
    seed: int = 0
    warmup: str = "auto"
    case_timeout_s: float | None = None
    keep_going_after_oom: bool = False
    verify: bool = True


@dataclass
class Outcome:
    """What became of a sweep.

    Attributes:
        failed: cases that a failed sample ended.
        interrupted: whether it was stopped before the end.
        loaded: how often a model was loaded.
        load_errors: what people can mend about models that did not load.
        notes: lines about devices, each once.
    """

    failed: int = 0
    interrupted: bool = False
    loaded: int = 0
    load_errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_groups(
    groups: Sequence[Group],
    progress: Mapping[Case, CaseProgress],
    engine: Engine,
    writer: RunWriter,
    emit: Listener,
    *,
    conduct: Conduct,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Measure what is left of all groups.

    `stop` is asked between samples; a sample in flight is finished.
    """
    outcome = Outcome()
    # Numbers of the worker processes of this session, by the engine's own: from 0, without gaps.
    workers: dict[int, int] = {}
    try:
        for group in groups:
            members = [progress[case] for case in group.cases]
            if all(one.ended for one in members):
                continue
            if outcome.interrupted or stop():
                outcome.interrupted = True
                break
            _GroupRun(group, members, engine, writer, emit, conduct, stop, outcome, workers).run()
    finally:
        engine.close()
    return outcome


@dataclass
class _GroupRun:
    group: Group
    members: list[CaseProgress]
    engine: Engine
    writer: RunWriter
    emit: Listener
    conduct: Conduct
    stop: Callable[[], bool]
    outcome: Outcome
    workers: dict[int, int]
    needs_memory_pass: bool = False
    alive: bool = False
    checked: set[str] = field(default_factory=set)
    # What has run with this model in this process, in order.
    ran: list[str] = field(default_factory=list)

    def run(self) -> None:
        try:
            self._skip_after_resume()
            self._measure()
        except Interrupted:
            self.outcome.interrupted = True

    def _measure(self) -> None:
        by_case = {one.case: one for one in self.members}
        pairs = EACH.groups(self.group.cases)
        while waiting := [one for one in self.members if not one.ended]:
            if self._stopped():
                return
            # A round takes the pairs that have had the fewest. After a resume that is what is left
            # of the round in which the sweep was stopped.
            number = min(one.next_round for one in waiting)
            # The same order in a resumed sweep, whatever was measured before.
            rng = random.Random(f"{self.conduct.seed}:{self.group.model.label}:{number}")
            for pair in shuffled(pairs, rng):
                arms = [by_case[case] for case in pair]
                if arms[0].next_round == number:
                    self._run_pair([arm for arm in arms if not arm.ended], number)

    def _run_pair(self, arms: list[CaseProgress], number: int) -> None:
        """Take one round of a pair, in one process; a round that loses it is left incomplete."""
        # All arms are warm before any is timed, so that they run next to each other.
        for arm in arms:
            self._ready(arm)
        process = self.engine.process
        arms = [arm for arm in arms if not arm.ended]
        if not all(arm.warm for arm in arms):
            # The process was lost over one of them: the others are cold as well.
            return
        for arm in arms:
            # Again, as the worker may have been replaced since.
            if self._ready(arm) and self.engine.process == process:
                repeat, tokens = len(arm.measured), arm.case.max_new_tokens
                self._take(arm, arm.task("measure", repeat, tokens, number))
            elif not arm.ended:
                return
        left = [arm for arm in arms if arm.failure is None]
        if all(arm.measured and arm.measured[-1].round == number for arm in left):
            for arm in left:
                arm.losses = 0

    def _ready(self, arm: CaseProgress) -> bool:
        """Prepare a case, and see whether the process was lost while it waited."""
        if self.alive and self.engine.open_model is None:
            self.alive = False
            self._lose_in_waiting(arm)
        return self._prepare(arm)

    def _lose_in_waiting(self, arm: CaseProgress) -> None:
        # That costs a start and no sample; but not for ever, or the sweep would not end.
        self._keep_log(f"waiting for {arm.case.label} on {self.group.model.label}")
        if not arm.ended:
            arm.losses += 1
            if arm.losses >= MOST_LOSSES:
                error = "the worker process was lost again and again while it waited"
                self._fail(arm, "crashed", error=error)

    def _prepare(self, arm: CaseProgress) -> bool:
        """Load, verify and warm up as far as is needed; whether the case can be timed."""
        if arm.ended or self._stopped() or not self._is_open(arm):
            return False
        self._verify(arm)
        # The check may have cost the process, which says so itself.
        self.alive = self.engine.open_model is not None
        while not (arm.warm or arm.ended or self._stopped()) and self._is_open(arm):
            self._warm_up(arm)
            if self.engine.open_model is None:
                # Lost: the whole round is begun again.
                return False
            if self.needs_memory_pass and not (arm.memory_known or arm.ended or self._stopped()):
                self._take(arm, arm.task("memory", 0, arm.case.max_new_tokens))
        return arm.warm and not arm.ended and not self._stopped()

    def _warm_up(self, arm: CaseProgress) -> None:
        """Warm a case up, alone or together with others of its shapes.

        Where the longest of them fails, the case itself is still cold: it is tried with the next.
        """
        warmup = self.conduct.warmup
        by_case = {one.case: one for one in self.members if not one.ended}
        case = arm.case if arm.owes_warmup else longest(arm.case, list(by_case), warmup)
        leader = by_case[case]
        self._take(leader, leader.task("warmup", 0, warmup_tokens(case, warmup)))
        if leader.failure is None and self.engine.open_model is not None:
            for other in covered(case, by_case, warmup):
                by_case[other].warm = not by_case[other].owes_warmup

    def _is_open(self, arm: CaseProgress) -> bool:
        """Whether the model is open, now or after loading it; if not, the case has failed."""
        if self.engine.open_model == self.group.model:
            return True
        for attempt in range(_MOST_LOADS):
            self.emit(ModelLoading(self.group.model))
            loaded = self.engine.open(self.group.model)
            self.emit(loaded)
            if isinstance(loaded, ModelLoaded):
                self._opened(loaded)
                return True
            self._keep_log(f"loading {self.group.model.label}")
            if not loaded.died or attempt + 1 == _MOST_LOADS:
                self._fail_to_load(loaded)
                return False
            # A process may be killed while it loads for no fault of the model's: it loads again.
            task = arm.task("measure", len(arm.measured), arm.case.max_new_tokens)
            lost = sample_of(task, status=loaded.status, stage="load", error=loaded.error)
            arm.remember_lost(self._write(lost))
            if self._stopped():
                return False
        raise AssertionError("the last load returns")

    def _opened(self, loaded: ModelLoaded) -> None:
        self.alive = True
        self.outcome.loaded += 1
        self.writer.keep_config(self.group.model.model, loaded.config)
        self.needs_memory_pass = loaded.needs_memory_pass
        for notice in loaded.notices:
            self._tell(notice)
        self._cool()
        self.ran.clear()

    def _cool(self) -> None:
        """What was warm in the last process is cold in the next one."""
        for member in self.members:
            member.warm = False

    def _take(self, arm: CaseProgress, task: Task) -> None:
        self.emit(SampleStarted(task))
        sample, times = self._run(arm, task)
        if task.phase == "warmup" and scope_of(task.case, self.conduct.warmup) != "short":
            sample = dataclasses.replace(sample, cold_after=", ".join(self.ran) or "nothing")
        self._remember(task.case.cache)
        finding = self._finding(task.case.cache)
        if finding is not None and finding.verdict == "fail":
            sample = with_flag(sample, VERIFY_FAILED)
        lost = self.engine.open_model is None
        if lost:
            self._cool()
            # Lost over a good sample: then nobody has noticed yet.
            self.alive = sample.status == "ok"
        self._record(arm, sample, times, again=lost and sample.status == "crashed")
        self._check_output(arm)
        if not lost and self.engine.open_model is None:
            # The check has cost the process, which says so itself.
            self._cool()
            self.alive = False
        if sample.status == "oom" and not self.conduct.keep_going_after_oom:
            self._skip_larger(arm.case, sample)

    def _remember(self, what: str) -> None:
        if what not in self.ran:
            self.ran.append(what)

    def _run(self, arm: CaseProgress, task: Task) -> tuple[Sample, tuple[float, ...]]:
        limit = self.conduct.case_timeout_s
        if limit is None or arm.used_s < limit:
            (job,) = EACH.jobs([task])
            left = None if limit is None else limit - arm.used_s
            (row,) = rows_of(job, self.engine.run(job, left))
            return row
        error = f"the case's samples have taken {arm.used_s:.3g} s of its {limit:g} s"
        return sample_of(task, status="timeout", error=error), ()

    def _record(
        self,
        arm: CaseProgress,
        sample: Sample,
        times: Sequence[float] = (),
        *,
        again: bool = False,
    ) -> None:
        """Write a row and learn from it; `again`: its process was lost, which may be no fault."""
        row = self._write(sample, times)
        if again:
            arm.note_loss(row)
            if not arm.ended:
                self.emit(Notice(f"{row.sample_id} is measured again: {row.error}"))
        else:
            arm.note(row)
        # The sample that ends one arm of a pair may be what the other was kept waiting for.
        for one in arm.pair:
            if one.ended and not one.end_told:
                one.end_told = True
                self.outcome.failed += one.failure is not None
                self.emit(CaseEnded(one.case, one.counted, one.failure))

    def _write(self, sample: Sample, times: Sequence[float] = ()) -> Sample:
        # Written before anything else is done, so that a later failure loses nothing.
        worker = self.workers.setdefault(self.engine.process, len(self.workers))
        row = self.writer.append(dataclasses.replace(sample, worker=worker), times)
        self.emit(SampleEnded(row))
        if row.status != "ok":
            self._keep_log(row.sample_id)
        return row

    def _fail(self, arm: CaseProgress, status: Status, **fields: object) -> None:
        task = arm.task("measure", len(arm.measured), arm.case.max_new_tokens)
        self._record(arm, sample_of(task, status=status, **fields))

    def _fail_to_load(self, loaded: LoadFailed) -> None:
        if loaded.status == "unsupported":
            self.outcome.load_errors.append(loaded.error)
        for member in self.members:
            if not member.ended:
                self._fail(
                    member,
                    loaded.status,
                    stage="load",
                    error=loaded.error,
                    oom_bytes=loaded.oom_bytes,
                )

    def _skip_after_resume(self) -> None:
        """What ran out of memory before is proof as well: a kill may have come before the skips."""
        if not self.conduct.keep_going_after_oom:
            for member in self.members:
                if member.failure is not None and member.failure.status == "oom":
                    self._skip_larger(member.case, member.failure)

    def _skip_larger(self, proof: Case, sample: Sample) -> None:
        for member in self.members:
            # A case with a sample has shown that it fits.
            if not member.ended and not member.measured and member.case.needs_at_least(proof):
                error = (
                    f"needs at least as much memory as {sample.sample_id} ({proof.label}), which "
                    "ran out of it"
                )
                self._fail(member, "skipped_oom", error=error)

    def _verify(self, arm: CaseProgress) -> None:
        """Check a strategy before it is first timed; once more if that was cut off before."""
        cache = arm.case.cache
        found = self._finding(cache)
        again = found is not None and found.verdict == "not_finished" and cache not in self.checked
        if cache == BASELINE or not self.conduct.verify or (found and not again):
            return
        self.checked.add(cache)
        self.emit(Verifying(self.group.model, cache))
        checks = self.engine.verify(cache, reach=self._reach(cache))
        for _ in range(_MOST_LOST_CHECKS):
            # A process may be killed over it for no fault of the strategy's.
            if self.engine.open_model is not None:
                break
            cut = (check.detail for check in checks if check.verdict == "not_finished")
            why = next(cut, "the worker process was lost.")
            self.emit(Notice(f"{cache} is verified again: {why}"))
            if not self._is_open(arm):
                break
            # Not as far: that may be what took the memory.
            checks = self.engine.verify(cache)
        self._remember("verification")
        self.writer.append_checks(checks)
        self._keep_log(f"verifying {cache} on {self.group.model.label}")
        found = self._finding(cache)
        if found is not None:
            self.emit(Verified(found))

    def _reach(self, cache: str) -> Case | None:
        """The case that a strategy is verified at."""
        rule = self.conduct.rule
        return reach_of(self.group.cases, cache, rule.repeats or rule.min_repeats)

    def _check_output(self, arm: CaseProgress) -> None:
        """Have the engine look at cases of a pair whose samples have other tokens, once each."""
        if not self.conduct.verify or self.engine.open_model != self.group.model:
            return
        known = {check.case_id for check in self.writer.checks}
        for case in differing((one.case, one.measured) for one in arm.pair):
            if case.id not in known | self.checked:
                self.checked.add(case.id)
                self.emit(Verifying(self.group.model, case.cache))
                self.writer.append_checks(self.engine.verify_output(case))
                self._keep_log(f"comparing the tokens of {case.label}")
                found = self._finding(case.cache)
                if found is not None:
                    self.emit(Verified(found))

    def _finding(self, cache: str) -> Finding | None:
        """What was found of a strategy on this model, in the environment of this session."""
        return self.writer.finding(self.group.model, cache)

    def _keep_log(self, title: str) -> None:
        self.writer.keep_log(title, self.engine.take_log())

    def _tell(self, notice: str) -> None:
        if notice not in self.outcome.notes:
            self.outcome.notes.append(notice)
            self.emit(Notice(notice))

    def _stopped(self) -> bool:
        self.outcome.interrupted = self.outcome.interrupted or self.stop()
        return self.outcome.interrupted
