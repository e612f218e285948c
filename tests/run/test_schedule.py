"""Tests of kvbench/run/schedule.py: several engines whose answers arrive in any order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kvbench.measure.stopping import StoppingRule
from kvbench.methods import JobResult
from kvbench.methods.each import EACH
from kvbench.plan.case import Case, ModelKey, Task
from kvbench.records.events import Event, LoadFailed, ModelLoaded, SampleStarted
from kvbench.records.run import load_run
from kvbench.records.sample import Sample, latest
from kvbench.records.writer import RunWriter
from kvbench.run.progress import progress_of
from kvbench.run.schedule import Assignment, next_jobs
from kvbench.run.state import Conduct, EngineState, ModelSession, SweepState
from kvbench.run.steps import Load, RunJob, perform
from kvbench.run.sweep import Sweep
from tests.fakes import Failure, FakeEngine, make_case, make_info

THREE = StoppingRule(repeats=3)
ADAPTIVE = StoppingRule(min_repeats=2, max_repeats=5, min_seconds=1.0, max_spread=100.0)
NO_SHRINK = (Phase.explicit, Phase.generate)


def grid(*models: str, lengths: Sequence[int] = (10, 50, 100)) -> list[Case]:
    return [
        make_case(model=model, cache=cache, max_new_tokens=tokens)
        for model in models
        for tokens in lengths
        for cache in ("off", "dynamic")
    ]


# The pure function


def state_of(cases: Sequence[Case], **conduct: Any) -> SweepState:
    known: dict[str, Any] = {"rule": THREE, "verify": False}
    return SweepState.of(progress_of(cases, (), THREE), Conduct(**(known | conduct)))


def opened(number: int, case: Case) -> EngineState:
    return EngineState(number, model=case.model_key, session=ModelSession(case.model_key))


def test_asking_changes_nothing() -> None:
    state, engines = state_of(grid("a")), [EngineState(n) for n in range(3)]
    first, second = next_jobs(state, engines), next_jobs(state, engines)
    assert [(one.engine, one.step) for one in first] == [(one.engine, one.step) for one in second]
    assert {group.home for group in state.models[grid("a")[0].model_key].groups} == {None}
    assert [(engine.turn, engine.session, engine.busy) for engine in engines] == [
        (None, None, False)
    ] * 3


def test_each_engine_takes_a_model_of_its_own_while_there_is_one() -> None:
    found = next_jobs(state_of(grid("a", "b")), [EngineState(n) for n in range(3)])
    assert [one.step.model.model for one in found if isinstance(one.step, Load)] == ["a", "b", "a"]
    # The two that share a model have different groups of it.
    assert len({id(one.turn.group) for one in found}) == 3


def test_a_busy_engine_and_one_without_work_get_nothing() -> None:
    cases = grid("a", lengths=(10,))
    engines = [EngineState(0, busy=True), EngineState(1), EngineState(2)]
    assert [one.engine for one in next_jobs(state_of(cases), engines)] == [1]


def test_an_engine_keeps_its_model_while_it_has_a_group_for_it() -> None:
    cases = grid("a", "b")
    state = state_of(cases)
    (one,) = next_jobs(state, [opened(0, cases[-1])])
    assert one.turn.model.model == "b"
    # An engine that cannot load it does not try again.
    engine = opened(0, cases[-1])
    engine.barred.add(cases[-1].model_key)
    (one,) = next_jobs(state, [engine])
    assert one.turn.model.model == "a"


def test_another_engines_group_is_left_to_it() -> None:
    cases = grid("a", lengths=(10,))
    state = state_of(cases)
    state.group_of(cases[0]).home = 1
    assert next_jobs(state, [EngineState(0)]) == ()
    (one,) = next_jobs(state, [EngineState(0), EngineState(1)])
    assert one.engine == 1


def test_a_warmup_that_covers_others_binds_their_group_as_well() -> None:
    cases = grid("a")
    state = state_of(cases, warmup="full")
    engines = [opened(0, cases[0]), opened(1, cases[0])]
    found = next_jobs(state, engines)
    assert all(isinstance(one.step, RunJob) for one in found)
    # The longest of the unbound ones: never the same one twice.
    assert found[0].step.case.max_new_tokens == 100
    assert found[1].step.case != found[0].step.case
    assert state.group_of(found[0].step.case) in found[0].groups
    assert not set(found[0].groups) & set(found[1].groups)


# A pool


class Pooled(FakeEngine):
    """An engine of a pool, whose process is lost when a script says so."""

    deadly: random.Random | None = None
    share = 0.0
    # From this batch size on, this fraction of the tasks of `dynamic` runs out of memory.
    full_at, full_share = 99, 0.0

    def too_little_memory(self, task: Task) -> Failure | None:
        assert self.deadly is not None
        large = task.case.cache == "dynamic" and task.case.batch_size >= self.full_at
        if large and self.deadly.random() < self.full_share:
            return "oom", "decode", "No memory."
        return None

    def dies(self) -> bool:
        return self.deadly is not None and self.deadly.random() < self.share

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        if self.dies():
            self.opened.append(key)
            self.process += self.lost
            self.lose()
            return LoadFailed(key, "crashed", "Killed.", died=True)
        return super().open(key)

    def run(self, *arguments: Any) -> JobResult:
        self.failure = killed if self.dies() else self.too_little_memory
        result = super().run(*arguments)
        if self.dies():
            # While it waits for the next.
            self.lose()
        return result


def killed(task: Task) -> Failure:
    """Lose the process during the task."""
    return "crashed", "decode", "Killed."


def seconds(task: Task) -> float:
    return (0.25, 0.28125, 0.3125)[(int(task.case.id, 16) + task.repeat) % 3]


def pool(count: int, seed: int = 0, share: float = 0.0) -> list[Pooled]:
    found = []
    for number in range(count):
        engine = Pooled(seconds=seconds)
        engine.deadly, engine.share = random.Random(f"{seed}:{number}"), share
        found.append(engine)
    return found


class Swept:
    """A sweep of a pool in which the engines answer in a random order."""

    def __init__(
        self,
        path: Path,
        cases: Sequence[Case],
        engines: Sequence[Pooled],
        seed: int = 0,
        rule: StoppingRule = THREE,
        **conduct: Any,
    ) -> None:
        self.cases, self.rule = cases, rule
        self.events: list[Event] = []
        # The tasks that each engine was given, for each of its processes.
        self.taken: list[tuple[int, int, Task]] = []
        order = random.Random(seed)
        with RunWriter.create(path, make_info(state="running")) as writer:
            progress = progress_of(cases, (), rule)
            sweep = Sweep(progress, engines, writer, self.events.append, Conduct(rule, **conduct))
            self._drive(sweep, engines, order)
            writer.finish("finished")
            self.outcome = sweep.outcome
        self.run = load_run(path)

    def _drive(self, sweep: Sweep, engines: Sequence[Pooled], order: random.Random) -> None:
        at_work: list[Assignment] = []
        for _ in range(100_000):
            at_work += [one for one in sweep.due() if sweep.begin(one)]
            assert len({one.engine for one in at_work}) == len(at_work)
            if not at_work:
                if not sweep.due():
                    return
                continue
            one = at_work.pop(order.randrange(len(at_work)))
            engine = engines[one.engine]
            if isinstance(one.step, RunJob):
                self.taken.append((one.engine, engine.process, one.step.job.task))
            sweep.learn(one, perform(one.step, engine))
        raise AssertionError("the sweep does not end")

    @property
    def rows(self) -> tuple[Sample, ...]:
        return self.run.samples


def assert_whole(swept: Swept) -> None:
    """Check: nothing lost or duplicated, no group on two engines, no round in two processes."""
    ids = [row.sample_id for row in swept.rows]
    assert len(set(ids)) == len(ids)
    given_ = [task.sample_id for _, _, task in swept.taken]
    assert len(set(given_)) == len(given_) and set(given_) <= set(ids)
    started = [one.task.sample_id for one in swept.events if isinstance(one, SampleStarted)]
    assert sorted(started) == sorted(given_)
    homes: dict[str, set[int]] = {}
    for engine, _, task in swept.taken:
        homes.setdefault(task.case.pair_key, set()).add(engine)
    assert all(len(engines) == 1 for engines in homes.values())
    # The counted samples of a round come from one process, whether it is complete or not.
    seen: dict[tuple[str, int], set[tuple[int, int]]] = {}
    by_id = {row.sample_id: row for row in swept.rows}
    for engine, process, task in swept.taken:
        if task.phase == "measure" and by_id[task.sample_id].status == "ok":
            seen.setdefault((task.case.pair_key, task.round), set()).add((engine, process))
    assert all(len(one) == 1 for one in seen.values())
    # A worker number identifies one process of one engine.
    of_worker: dict[int, set[tuple[int, int]]] = {}
    for engine, process, task in swept.taken:
        of_worker.setdefault(by_id[task.sample_id].worker, set()).add((engine, process))
    assert all(len(one) == 1 for one in of_worker.values())
    assert_rounds(swept)


def assert_rounds(swept: Swept) -> None:
    last = latest(swept.rows)
    failed = {row.case_id for row in last if row.status != "ok"}
    good = [row for row in last if row.phase == "measure" and row.status == "ok"]
    for case in swept.cases:
        repeats = [row.repeat for row in good if row.case_id == case.id]
        assert repeats == list(range(len(repeats)))
    for group in EACH.groups(swept.cases):
        arms = [case for case in group if case.id not in failed]
        if arms:
            rounds = [
                {(row.worker, row.round): row.total_s for row in good if row.case_id == case.id}
                for case in arms
            ]
            shared = [key for key in rounds[0] if all(key in one for one in rounds)]
            assert swept.rule.done(*([one[key] or 0.0 for key in shared] for one in rounds))


def test_three_engines_share_the_work(tmp_path: Path) -> None:
    cases = grid("a", lengths=(10, 20, 30, 40, 50, 60))
    swept = Swept(tmp_path / "run", cases, pool(3))
    assert_whole(swept)
    counts = Counter(engine for engine, _, task in swept.taken if task.phase == "measure")
    # Six groups of two, three rounds each.
    assert sum(counts.values()) == 36 and set(counts) == {0, 1, 2}
    assert max(counts.values()) <= 18


def test_models_are_loaded_once_where_there_are_as_many_as_engines(tmp_path: Path) -> None:
    engines = pool(3)
    assert_whole(Swept(tmp_path / "run", grid("a", "b", "c"), engines))
    assert [[key.model for key in engine.opened] for engine in engines] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("count", [1, 3])
def test_each_round_takes_the_groups_in_the_order_of_the_seed(tmp_path: Path, count: int) -> None:
    swept = Swept(tmp_path / "run", grid("a"), pool(count), verify=False)
    one = Swept(tmp_path / "one", grid("a"), pool(1), verify=False)

    def arms(of: Swept) -> dict[tuple[str, int], list[str]]:
        found: dict[tuple[str, int], list[str]] = {}
        for _, _, task in of.taken:
            if task.phase == "measure":
                found.setdefault((task.case.pair_key, task.round), []).append(task.case.cache)
        return found

    # The choice of engine does not matter.
    assert arms(swept) == arms(one)


def test_an_engine_that_cannot_load_a_model_leaves_it_to_the_others(tmp_path: Path) -> None:
    class Small(Pooled):
        def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
            self.opened.append(key)
            return LoadFailed(key, "oom", "Does not fit.")

    engines = [*pool(2), Small(seconds=seconds)]
    swept = Swept(tmp_path / "run", grid("a", lengths=(10, 20, 30, 40)), engines)
    assert_whole(swept)
    # It costs only the group that it had.
    failed = {row.max_new_tokens for row in swept.rows if row.status == "oom"}
    assert len(failed) == 1 and len(engines[2].opened) == 1
    assert {row.status for row in swept.rows if row.max_new_tokens not in failed} == {"ok"}


@settings(deadline=None, max_examples=25, derandomize=True, database=None, phases=NO_SHRINK)
@given(
    st.integers(0, 10_000),
    st.sampled_from((0.0, 0.02, 0.1, 0.3)),
    st.sampled_from((THREE, ADAPTIVE)),
    st.sampled_from(("auto", "full")),
    st.booleans(),
)
def test_whatever_is_killed_in_a_pool_no_sample_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    share: float,
    rule: StoppingRule,
    warmup: str,
    memory_pass: bool,
) -> None:
    engines = pool(3, seed, share)
    for engine in engines:
        engine.memory_pass = memory_pass
    cases = [*grid("a"), *grid("b", lengths=(10, 20)), *grid("c", lengths=(10,))]
    path = tmp_path_factory.mktemp("pool") / "run"
    swept = Swept(path, cases, engines, seed, rule, warmup=warmup)
    assert_whole(swept)
    failed = {row.case_id for row in latest(swept.rows) if row.status != "ok"}
    assert swept.outcome.failed == len(failed)
    if not share:
        assert not failed


@settings(deadline=None, max_examples=25, derandomize=True, database=None, phases=NO_SHRINK)
@given(st.integers(0, 10_000), st.sampled_from((0.2, 0.5, 1.0)), st.sampled_from((0.0, 0.05)))
def test_where_memory_runs_out_in_a_pool_no_sample_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, seed: int, full_share: float, share: float
) -> None:
    engines = pool(3, seed, share)
    for engine in engines:
        engine.full_at, engine.full_share = 2, full_share
    cases = [
        make_case(cache=cache, batch_size=size, max_new_tokens=tokens)
        for size in (1, 2, 4, 8)
        for tokens in (10, 20)
        for cache in ("off", "dynamic")
    ]
    swept = Swept(tmp_path_factory.mktemp("pool") / "run", cases, engines, seed)
    assert_whole(swept)
    last = latest(swept.rows)
    assert {row.cache for row in last if row.status in ("oom", "skipped_oom")} <= {"dynamic"}
    # Nothing is skipped without evidence.
    proofs = {row.sample_id for row in swept.rows if row.status == "oom"}
    for row in last:
        if row.status == "skipped_oom":
            assert any(proof in (row.error or "") for proof in proofs)
