"""Tests of kvbench/run/sweep.py with an engine that measures nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvbench.case import Case, Task, group_cases
from kvbench.measure.stopping import StoppingRule
from kvbench.records.events import (
    CaseEnded,
    Event,
    LoadFailed,
    ModelLoaded,
    ModelLoading,
    Notice,
    SampleEnded,
    SampleStarted,
)
from kvbench.records.run import load_run
from kvbench.records.sample import Sample
from kvbench.records.writer import RunWriter
from kvbench.run.sweep import Outcome, run_groups
from tests.fakes import Failure, FakeEngine, make_case, make_info, samples_of

LENGTHS = (10, 50, 100)
THREE = StoppingRule(repeats=3)


def grid(model: str = "gpt2", lengths: Sequence[int] = LENGTHS) -> list[Case]:
    return [
        make_case(model=model, cache=cache, max_new_tokens=tokens)
        for tokens in lengths
        for cache in ("off", "dynamic")
    ]


@dataclass
class Swept:
    outcome: Outcome
    events: list[Event]
    rows: tuple[Sample, ...]
    engine: FakeEngine

    @property
    def measured(self) -> list[Sample]:
        return [sample for sample in self.rows if sample.phase == "measure"]


Sweep = Callable[..., Swept]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Runs cases on an engine and reads the folder back."""
    counter = iter(range(1000))

    def run(
        cases: Sequence[Case],
        engine: FakeEngine | None = None,
        *,
        rule: StoppingRule = THREE,
        seed: int = 0,
        stop: Callable[[], bool] = lambda: False,
    ) -> Swept:
        engine, events = engine or FakeEngine(), list[Event]()
        path = tmp_path / f"run{next(counter)}"
        with RunWriter(path, make_info(state="running")) as writer:
            outcome = run_groups(
                group_cases(cases), engine, writer, events.append, rule=rule, seed=seed, stop=stop
            )
            writer.finish("finished", outcome.notes)
        return Swept(outcome, events, load_run(path).samples, engine)

    return run


def failing(wanted: Callable[[Task], bool], failure: Failure) -> Callable[[Task], Failure | None]:
    return lambda task: failure if wanted(task) else None


# What is measured, and in which order


def test_every_case_has_its_samples_and_one_warmup(sweep: Sweep) -> None:
    swept = sweep(grid())
    wanted = {case.id: 3 for case in grid()}
    assert Counter(sample.case_id for sample in swept.measured) == wanted
    warmups = [sample.case_id for sample in swept.rows if sample.phase == "warmup"]
    assert Counter(warmups) == dict.fromkeys(wanted, 1)
    assert (swept.outcome.loaded, swept.outcome.failed) == (1, 0)
    assert not swept.outcome.interrupted


def test_samples_are_numbered_and_their_ids_are_unique(sweep: Sweep) -> None:
    swept = sweep(grid())
    for case in grid():
        own = [sample for sample in swept.measured if sample.case_id == case.id]
        assert [sample.repeat for sample in own] == [0, 1, 2]
        assert [sample.round for sample in own] == [0, 1, 2]
        assert [sample.sample_id for sample in own] == [f"{case.id}-s{i:03d}" for i in range(3)]
    assert len({sample.sample_id for sample in swept.rows}) == len(swept.rows)


def test_warmups_come_before_anything_of_their_case_is_timed(sweep: Sweep) -> None:
    rows = sweep(grid()).rows
    for case in grid():
        phases = [sample.phase for sample in rows if sample.case_id == case.id]
        assert phases == ["warmup", "measure", "measure", "measure"]


def test_warmups_are_short_and_samples_are_whole(sweep: Sweep) -> None:
    tasks = sweep(grid(lengths=(10, 100))).engine.tasks
    lengths = {(task.phase, task.case.max_new_tokens): task.new_tokens for task in tasks}
    assert lengths == {
        ("warmup", 10): 10,
        ("warmup", 100): 16,
        ("measure", 10): 10,
        ("measure", 100): 100,
    }


def test_both_arms_of_a_pair_run_next_to_each_other_in_every_round(sweep: Sweep) -> None:
    tasks = [task for task in sweep(grid()).engine.tasks if task.phase == "measure"]
    for first, second in zip(tasks[::2], tasks[1::2], strict=True):
        assert first.case.pair_key == second.case.pair_key
        assert {first.case.cache, second.case.cache} == {"off", "dynamic"}
        assert first.round == second.round


def test_both_arms_are_warm_before_either_is_timed(sweep: Sweep) -> None:
    tasks = sweep(grid()).engine.tasks
    for tokens in LENGTHS:
        phases = [task.phase for task in tasks if task.case.max_new_tokens == tokens]
        assert phases[:4] == ["warmup", "warmup", "measure", "measure"]


def test_nothing_comes_between_the_arms_of_a_pair(sweep: Sweep) -> None:
    tasks = sweep(grid()).engine.tasks
    at = [i for i, task in enumerate(tasks) if task.phase == "measure"]
    assert all(second == first + 1 for first, second in zip(at[::2], at[1::2], strict=True))


def test_every_pair_is_in_every_round(sweep: Sweep) -> None:
    tasks = [task for task in sweep(grid()).engine.tasks if task.phase == "measure"]
    assert [task.round for task in tasks] == [0] * 6 + [1] * 6 + [2] * 6
    assert {task.case for task in tasks[6:12]} == set(grid())


def order_of(swept: Swept) -> list[tuple[str, str, int]]:
    return [(task.case.id, task.phase, task.repeat) for task in swept.engine.tasks]


def test_a_seed_gives_the_same_order_again(sweep: Sweep) -> None:
    assert order_of(sweep(grid(), seed=5)) == order_of(sweep(grid(), seed=5))


def test_another_seed_gives_another_order(sweep: Sweep) -> None:
    orders = [order_of(sweep(grid(), seed=seed)) for seed in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_rounds_differ_in_their_order(sweep: Sweep) -> None:
    swept = sweep(grid(), rule=StoppingRule(repeats=6))
    tasks = [task for task in swept.engine.tasks if task.phase == "measure"]
    rounds = {tuple(t.case.id for t in tasks if t.round == number) for number in range(6)}
    assert len(rounds) > 1


def test_models_are_opened_one_after_another_in_the_order_of_the_plan(sweep: Sweep) -> None:
    swept = sweep([*grid("b"), *grid("a"), *grid("b", (7,))])
    assert [key.model for key in swept.engine.opened] == ["b", "a"]
    models = [task.case.model for task in swept.engine.tasks]
    assert models == sorted(models, reverse=True)
    assert swept.engine.closed == 1


# How many


def quarter_or_eighth(task: Task) -> float:
    # Sums of these are exact, so the counts that follow are too.
    return 0.25 if task.case.cache == "off" else 0.125


def test_the_rule_decides_for_each_case_on_its_own(sweep: Sweep) -> None:
    rule = StoppingRule(min_repeats=5, max_repeats=100, min_seconds=3.0, max_spread=0.05)
    swept = sweep(grid(), FakeEngine(seconds=quarter_or_eighth), rule=rule)
    counts = Counter((sample.cache, sample.max_new_tokens) for sample in swept.measured)
    assert counts == {
        (cache, tokens): {"off": 12, "dynamic": 24}[cache]
        for tokens in LENGTHS
        for cache in ("off", "dynamic")
    }


def test_a_case_that_has_enough_leaves_its_partner_to_go_on_alone(sweep: Sweep) -> None:
    rule = StoppingRule(min_repeats=1, max_repeats=9, min_seconds=0.5, max_spread=0.05)
    swept = sweep(grid(lengths=(100,)), FakeEngine(seconds=quarter_or_eighth), rule=rule)
    rounds = {
        cache: [s.round for s in swept.measured if s.cache == cache] for cache in ("off", "dynamic")
    }
    assert rounds == {"off": [0, 1], "dynamic": [0, 1, 2, 3]}


def test_the_rule_sees_the_times_of_samples_and_not_of_warmups(sweep: Sweep) -> None:
    seen: list[list[float]] = []

    class Rule(StoppingRule):
        def done(self, times: Sequence[float]) -> bool:
            seen.append(list(times))
            return len(times) == 2

    sweep([make_case(max_new_tokens=100)], rule=Rule())
    assert seen == [[pytest.approx(0.1)], [pytest.approx(0.1)] * 2]


def test_one_repeat_is_one_round(sweep: Sweep) -> None:
    assert len(sweep(grid(), rule=StoppingRule(repeats=1)).measured) == len(grid())


# Failures


def test_a_failure_ends_its_own_case_only(sweep: Sweep) -> None:
    bad = make_case(cache="off", max_new_tokens=50)
    failure = failing(
        lambda task: task.case == bad and task.phase == "measure" and task.repeat == 1,
        ("oom", "decode", "No memory left."),
    )
    swept = sweep(grid(), FakeEngine(failure=failure))
    rows = [sample for sample in swept.rows if sample.case_id == bad.id]
    assert [(s.phase, s.status) for s in rows] == [
        ("warmup", "ok"),
        ("measure", "ok"),
        ("measure", "oom"),
    ]
    assert (rows[-1].stage, rows[-1].error) == ("decode", "No memory left.")
    others = Counter(s.case_id for s in swept.measured if s.case_id != bad.id)
    assert others == {case.id: 3 for case in grid() if case != bad}
    assert swept.outcome.failed == 1


def test_a_warmup_that_fails_ends_its_case_before_it_is_timed(sweep: Sweep) -> None:
    bad = make_case(max_new_tokens=50)
    failure = failing(lambda task: task.case == bad, ("unsupported", "prefill", "It cannot."))
    swept = sweep(grid(), FakeEngine(failure=failure))
    rows = [(s.phase, s.status) for s in swept.rows if s.case_id == bad.id]
    assert rows == [("warmup", "unsupported")]
    assert Counter(s.status for s in swept.measured) == {"ok": 15}


def test_an_engine_on_which_all_fails_ends(sweep: Sweep) -> None:
    failure = failing(lambda task: True, ("crashed", "decode", "Boom."))
    swept = sweep(grid(), FakeEngine(failure=failure))
    assert (swept.outcome.failed, swept.outcome.loaded) == (6, 1)
    assert [s.status for s in swept.rows] == ["crashed"] * 6


def test_a_model_that_does_not_load_is_a_row_per_case(sweep: Sweep) -> None:
    engine = FakeEngine(unloadable={"bad": ("oom", "Does not fit.")})
    swept = sweep([*grid("bad"), *grid("good")], engine)
    rows = [s for s in swept.rows if s.model == "bad"]
    assert Counter(s.case_id for s in rows) == dict.fromkeys((c.id for c in grid("bad")), 1)
    assert {(s.phase, s.status, s.stage, s.error) for s in rows} == {
        ("measure", "oom", "load", "Does not fit.")
    }
    assert {task.case.model for task in engine.tasks} == {"good"}
    assert Counter(s.model for s in swept.measured if s.status == "ok") == {"good": 18}
    assert (swept.outcome.failed, swept.outcome.loaded) == (6, 1)
    assert swept.outcome.load_errors == []


def test_what_people_can_mend_about_a_model_is_kept(sweep: Sweep) -> None:
    engine = FakeEngine(
        unloadable={"a": ("unsupported", "No such model."), "b": ("crashed", "Boom.")}
    )
    assert sweep([*grid("a"), *grid("b")], engine).outcome.load_errors == ["No such model."]


def test_an_engine_that_breaks_is_closed_and_its_error_is_not_hidden(sweep: Sweep) -> None:
    def broken(task: Task) -> float:
        raise RuntimeError("not a sample")

    engine = FakeEngine(seconds=broken)
    with pytest.raises(RuntimeError, match="not a sample"):
        sweep(grid(), engine)
    assert engine.closed == 1


# Stopping


@pytest.mark.parametrize("count", [1, 2, 3, 8, 23])
def test_stop_ends_after_the_sample_in_flight(sweep: Sweep, count: int) -> None:
    engine = FakeEngine()
    swept = sweep(grid(), engine, stop=lambda: len(engine.tasks) >= count)
    assert len(swept.rows) == len(engine.tasks) == count
    assert swept.outcome.interrupted
    assert engine.closed == 1


def test_stop_during_a_warmup_leaves_the_memory_pass_out(sweep: Sweep) -> None:
    engine = FakeEngine(memory_pass=True)
    swept = sweep(grid(), engine, stop=lambda: len(engine.tasks) >= 1)
    assert [sample.phase for sample in swept.rows] == ["warmup"]
    assert swept.outcome.interrupted


def test_stop_at_the_start_measures_nothing(sweep: Sweep) -> None:
    swept = sweep(grid(), stop=lambda: True)
    assert (swept.rows, swept.outcome.interrupted) == ((), True)


def test_stop_ends_the_other_models_too(sweep: Sweep) -> None:
    engine = FakeEngine()
    swept = sweep([*grid("a"), *grid("b")], engine, stop=lambda: len(engine.tasks) >= 4)
    assert [key.model for key in engine.opened] == ["a"]
    assert len(swept.rows) == 4


def test_stop_during_the_last_sample_of_a_model_loads_no_other(sweep: Sweep) -> None:
    engine = FakeEngine()
    last = len(grid("a", (10,))) * 4
    swept = sweep(
        [*grid("a", (10,)), *grid("b", (10,))], engine, stop=lambda: len(engine.tasks) >= last
    )
    assert [key.model for key in engine.opened] == ["a"]
    assert swept.outcome.interrupted


def test_stop_after_the_very_last_sample_is_no_interruption(sweep: Sweep) -> None:
    engine = FakeEngine()
    last = len(grid()) * 4
    swept = sweep(grid(), engine, stop=lambda: len(engine.tasks) >= last)
    assert len(swept.rows) == last
    assert not swept.outcome.interrupted


# Memory and notices


def test_a_memory_pass_is_one_whole_untimed_generation_per_case(sweep: Sweep) -> None:
    swept = sweep(grid(), FakeEngine(memory_pass=True))
    passes = [task for task in swept.engine.tasks if task.phase == "memory"]
    assert Counter(task.case for task in passes) == dict.fromkeys(grid(), 1)
    assert all(task.new_tokens == task.case.max_new_tokens for task in passes)
    for case in grid():
        phases = [sample.phase for sample in swept.rows if sample.case_id == case.id]
        assert phases == ["warmup", "memory", "measure", "measure", "measure"]
    assert len(swept.measured) == 18


def test_a_case_whose_warmup_fails_has_no_memory_pass(sweep: Sweep) -> None:
    failure = failing(lambda task: task.phase == "warmup", ("oom", "prefill", "No memory."))
    swept = sweep(grid(), FakeEngine(memory_pass=True, failure=failure))
    assert {sample.phase for sample in swept.rows} == {"warmup"}


def test_without_need_there_is_no_memory_pass(sweep: Sweep) -> None:
    assert {task.phase for task in sweep(grid()).engine.tasks} == {"warmup", "measure"}


def test_a_notice_is_told_once_however_many_models_there_are(sweep: Sweep) -> None:
    engine = FakeEngine(says=("NVML is not there.", "Memory is polled."))
    swept = sweep([*grid("a"), *grid("b")], engine)
    told = [event.text for event in swept.events if isinstance(event, Notice)]
    assert told == swept.outcome.notes == ["NVML is not there.", "Memory is polled."]


# Events


def test_every_row_is_told_after_it_is_on_disk(tmp_path: Path) -> None:
    told: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, SampleEnded):
            rows = (tmp_path / "run" / "samples.csv").read_text(encoding="utf-8").splitlines()
            assert rows[-1].startswith(event.sample.sample_id)
            told.append(len(rows) - 1)

    with RunWriter(tmp_path / "run", make_info(state="running")) as writer:
        run_groups(
            group_cases(grid()), FakeEngine(), writer, listen, rule=StoppingRule(repeats=1), seed=0
        )
    assert told == list(range(1, 13))


def test_each_sample_is_announced_and_then_told(sweep: Sweep) -> None:
    events = sweep(grid()).events
    pairs = [e for e in events if isinstance(e, (SampleStarted, SampleEnded))]
    for started, ended in zip(pairs[::2], pairs[1::2], strict=True):
        assert isinstance(started, SampleStarted)
        assert isinstance(ended, SampleEnded)
        assert started.task.sample_id == ended.sample.sample_id


def test_each_case_ends_once_with_its_counted_samples(sweep: Sweep) -> None:
    bad = make_case(cache="off", max_new_tokens=50)
    failure = failing(lambda task: task.case == bad, ("oom", "decode", "No memory."))
    swept = sweep(grid(), FakeEngine(failure=failure))
    ended = {e.case: e for e in swept.events if isinstance(e, CaseEnded)}
    assert len([e for e in swept.events if isinstance(e, CaseEnded)]) == len(ended) == len(grid())
    for case, event in ended.items():
        assert len(event.measured) == (0 if case == bad else 3)
        assert {sample.case_id for sample in event.measured} <= {case.id}
    assert [case for case, event in ended.items() if event.failure] == [bad]


def test_a_load_is_announced_and_told(sweep: Sweep) -> None:
    engine = FakeEngine(unloadable={"b": ("crashed", "Boom.")})
    swept = sweep([*grid("a", (10,)), *grid("b", (10,))], engine)
    events = [e for e in swept.events if isinstance(e, (ModelLoading, ModelLoaded, LoadFailed))]
    assert [(type(event).__name__, event.model.model) for event in events] == [
        ("ModelLoading", "a"),
        ("ModelLoaded", "a"),
        ("ModelLoading", "b"),
        ("LoadFailed", "b"),
    ]
    assert len(samples_of(swept.events)) == len(swept.rows)


def test_token_times_are_written_with_their_sample(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunWriter(path, make_info(state="running")) as writer:
        run_groups(
            group_cases([make_case(max_new_tokens=20)]),
            FakeEngine(),
            writer,
            lambda event: None,
            rule=StoppingRule(repeats=2),
            seed=0,
        )
    counts = Counter(load_run(path).tokens_table["sample_id"])
    case_id = make_case(max_new_tokens=20).id
    assert counts == {f"{case_id}-w000": 16, f"{case_id}-s000": 20, f"{case_id}-s001": 20}
