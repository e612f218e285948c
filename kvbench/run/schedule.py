"""The scheduler: choose the next step of each idle engine. A pure function of what is known.

It starts nothing, waits for nothing, and does not know what an engine is: a worker process, one of
several GPUs, or a fake. A round of a comparison group runs on one engine and in one process; a
group stays on its engine.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from kvbench.analysis.generated import is_sampled
from kvbench.caches import BASELINE
from kvbench.methods import jobs_of
from kvbench.plan.case import Case, ModelKey, Task, split
from kvbench.run.outputs import differing
from kvbench.run.progress import CaseProgress
from kvbench.run.reach import reach_of
from kvbench.run.state import (
    EngineState,
    ModelSession,
    ModelWork,
    RoundGroup,
    SweepState,
    Turn,
)
from kvbench.run.steps import Compare, Load, ReadText, RunJob, Step, Verify
from kvbench.run.warmup import longest, warmup_tokens

__all__ = ["Assignment", "next_jobs", "too_large"]


@dataclass(frozen=True)
class Assignment:
    """The next step of an engine, the turn it belongs to, and the groups it binds."""

    engine: int
    turn: Turn
    step: Step
    groups: tuple[RoundGroup, ...]


def next_jobs(progress: SweepState, engines: Sequence[EngineState]) -> tuple[Assignment, ...]:
    """Return a step for each idle engine that has something to do.

    The work is done when no engine is busy and none gets a step.
    """
    found: list[Assignment] = []
    for engine in engines:
        if not engine.busy:
            others = {one.model for one in engines if one is not engine}
            others |= {one.turn.model for one in found}
            claimed = {group for one in found for group in one.groups}
            turn, step = _next(progress, engine, claimed, others)
            if turn is not None and step is not None:
                groups = turn.group, progress.group_of(step.case)
                found.append(Assignment(engine.number, turn, step, groups))
    return tuple(found)


def too_large(proof: CaseProgress, members: Iterable[CaseProgress]) -> tuple[CaseProgress, ...]:
    """Return the cases that need at least the memory of a case that ran out of it."""
    return tuple(
        one
        for one in members
        # A case with a sample is known to fit.
        if not one.ended and not one.measured and one.case.needs_at_least(proof.case)
    )


def _next(
    progress: SweepState,
    engine: EngineState,
    claimed: Container[RoundGroup],
    others: Container[ModelKey | None],
) -> tuple[Turn | None, Step | None]:
    turn = engine.turn
    if turn is not None:
        odd = _to_compare(progress, engine.session, turn)
        if odd is not None:
            return turn, Compare(odd)
    if turn is None or not turn.left:
        turn = _next_turn(progress, engine, claimed, others)
        if turn is None or turn.model != engine.model:
            # While the model is open; one that is not waits until all is timed.
            reading = _to_read(progress, engine, claimed, others, load=turn is None)
            if reading is not None:
                return reading
    return turn, None if turn is None else _step(progress, engine, turn, claimed)


def _next_turn(
    progress: SweepState,
    engine: EngineState,
    claimed: Container[RoundGroup],
    others: Container[ModelKey | None],
) -> Turn | None:
    """Return the turn to begin: of the same model while it has one, else of the next in the plan.

    A model that no other engine works on comes first, so that each is loaded once if possible.
    """

    def open_groups(work: ModelWork) -> list[RoundGroup]:
        if work.model in engine.barred:
            return []
        return [one for one in work.groups if one not in claimed and one.open_to(engine.number)]

    if engine.model is not None and (found := open_groups(progress.models[engine.model])):
        return _first_turn(progress.models[engine.model], found)
    for shared in (False, True):
        for model, work in progress.models.items():
            if (model in others) is shared and (found := open_groups(work)):
                return _first_turn(work, found)
    return None


def _first_turn(work: ModelWork, groups: Iterable[RoundGroup]) -> Turn:
    """Return the turn of the group with the fewest; after a resume, of what a stop left over."""
    waiting = list(groups)
    number = min(group.next_round for group in waiting)
    group = min(
        (group for group in waiting if group.next_round == number),
        key=lambda group: work.place(group, number)[0],
    )
    return Turn(work.model, group, number, work.place(group, number)[1])


def _to_read(
    progress: SweepState,
    engine: EngineState,
    claimed: Container[RoundGroup],
    others: Container[ModelKey | None],
    *,
    load: bool,
) -> tuple[Turn, Step] | None:
    """Return a strategy whose quality is to be measured: all cases of its model have ended."""
    for key, case in progress.unread.items():
        model, cache = key
        work, group = progress.models[model], progress.group_of(case)
        if key in progress.reading or model in engine.barred or group in claimed:
            continue
        if model != engine.model and (not load or model in others):
            continue
        ended = all(one.ended for one in work.groups)
        # What has run at no length says so in its samples.
        if ended and any(one.measured for one in work.members if one.case.cache == cache):
            is_open = engine.session is not None and engine.session.model == model
            step = ReadText(case) if is_open else Load(model, case)
            return Turn(model, group, group.next_round, ()), step
    return None


def _step(
    progress: SweepState, engine: EngineState, turn: Turn, claimed: Container[RoundGroup]
) -> Step:
    """Return the next step of a turn; all members are warm before one is timed."""
    session = engine.session
    if session is None or session.model != turn.model:
        return Load(turn.model, turn.left[0].case)
    for job in jobs_of(_tasks(turn, [one for one in turn.order if not one.ended])):
        # What is generated has to be warm, not what is read from it.
        member = progress.member(job.task.case)
        step = _preparation(progress, engine.number, session, member, claimed)
        if step is not None:
            return step
    return _job(progress, _tasks(turn, turn.left))


def _tasks(turn: Turn, members: Iterable[CaseProgress]) -> list[Task]:
    return [
        one.task("measure", len(one.measured), one.case.max_new_tokens, turn.number)
        for one in members
    ]


def _preparation(
    progress: SweepState,
    engine: int,
    session: ModelSession,
    member: CaseProgress,
    claimed: Container[RoundGroup],
) -> Step | None:
    case, conduct = member.case, progress.conduct
    if _needs_check(progress, case):
        return Verify(case, _reach(progress, case))
    if case not in session.warm:
        # Another engine's groups are out of reach: a sample may only be in progress in one place.
        waiting = {
            one.case: one
            for group in progress.models[session.model].groups
            if group not in claimed and group.open_to(engine)
            for one in group.members
            if not one.ended
        }
        leader = case if member.owes_warmup else longest(case, list(waiting), conduct.warmup)
        task = waiting[leader].task("warmup", 0, warmup_tokens(leader, conduct.warmup))
        return _job(progress, [task])
    if session.needs_memory_pass and not (is_sampled(case) or member.memory_known):
        return _job(progress, [member.task("memory", 0, case.max_new_tokens)])
    return None


def _job(progress: SweepState, tasks: Sequence[Task]) -> RunJob:
    job = jobs_of(tasks)[0]
    limit = progress.conduct.case_timeout_s
    if limit is None:
        return RunJob(job)
    return RunJob(job, limit, progress.member(job.task.case).used_s)


def _needs_check(progress: SweepState, case: Case) -> bool:
    asked = progress.conduct.verify and case.cache != BASELINE
    return asked and (case.model_key, case.cache) not in progress.verified


def _reach(progress: SweepState, case: Case) -> Case | None:
    """Return the case to verify a strategy at; a smaller one if memory may have run out there."""
    if (case.model_key, case.cache) in progress.cut:
        return None
    rule = progress.conduct.rule
    cases = [one.case for one in progress.models[case.model_key].members]
    return reach_of(cases, case.cache, rule.repeats or rule.min_repeats)


def _to_compare(progress: SweepState, session: ModelSession | None, turn: Turn) -> Case | None:
    """Return a case of a group whose samples have different tokens and were not compared yet."""
    if not progress.conduct.verify or session is None or session.model != turn.model:
        return None
    if not any(one.case.cache in session.ran for one in turn.order):
        return None
    for members in split(turn.group.members, lambda one: one.case.max_new_tokens):
        for case in differing((one.case, one.outputs) for one in members):
            if case.id not in progress.compared:
                return case
    return None
