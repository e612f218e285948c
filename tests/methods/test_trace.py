"""Tests of kvbench/methods/trace.py, of the fallback, and of sweeps that trace."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvbench import api
from kvbench.analysis.latency import latencies
from kvbench.analysis.summary import summarize_cases
from kvbench.analysis.trace import Prefix
from kvbench.measure.clock import TokenClock
from kvbench.measure.engine import LocalEngine
from kvbench.measure.stopping import StoppingRule
from kvbench.methods import METHODS, Job, JobResult, groups_of, rows_of, with_fallback
from kvbench.methods.trace import TRACE
from kvbench.plan.axes import AXES
from kvbench.plan.case import Case, Prompt, Task
from kvbench.plan.plan import Plan
from kvbench.records.events import Notice, SampleStarted
from kvbench.records.run import load_run
from kvbench.records.sample import Sample, latest
from kvbench.run.methods import method_notices
from tests.fakes import Failure, FakeEngine, make_case, make_task
from tests.run.test_sweep import Swept, start
from tests.tiny import ARCHITECTURES, config_folder

LENGTHS = (10, 20, 40)


def grid(*caches: str, lengths: tuple[int, ...] = LENGTHS, **fields: Any) -> list[Case]:
    return [
        make_case(cache=cache, max_new_tokens=tokens, method="trace", **fields)
        for tokens in lengths
        for cache in caches or ("off", "dynamic")
    ]


def job_of(*lengths: int) -> Job:
    (job,) = TRACE.jobs([make_task(case) for case in grid("dynamic", lengths=lengths)])
    return job


def test_the_methods_of_plans_are_those_that_there_are() -> None:
    assert AXES["method"].choices == tuple(METHODS)


def test_lengths_and_strategies_share_rounds_and_nothing_else_does() -> None:
    cases = [*grid(), *grid(batch_size=2), make_case()]
    assert [len(group) for group in groups_of(cases)] == [6, 6, 1]


def test_a_job_is_a_strategy_and_its_longest_task_is_carried_out() -> None:
    tasks = [make_task(case) for case in reversed(grid())]
    made = TRACE.jobs(tasks)
    assert [job.task.case.cache for job in made] == ["dynamic", "off"]
    assert [[task.new_tokens for task in job.tasks] for job in made] == [[10, 20, 40]] * 2
    # Drivers are compared within a group, and are generations of their own.
    two = [*grid("off"), *grid("off", driver="loop")]
    assert len(groups_of(two)) == 1 and len(TRACE.jobs([make_task(case) for case in two])) == 2


def test_rows_are_read_from_one_generation() -> None:
    job = job_of(2, 4)
    result = JobResult(
        "ok", "now", {"new_tokens": 4}, 4.5, (1.0, 2.0, 3.0, 4.0), (Prefix(2, "beginning"),)
    )
    (short, no_times), (whole, times) = rows_of(job, result)
    assert (short.total_s, short.ttft_s, short.output_sha256) == (2.5, 1.0, "beginning")
    assert {short.generation_id, whole.generation_id} == {whole.sample_id}
    assert (no_times, times) == ((), result.times)


def test_a_death_at_a_token_leaves_the_shorter_lengths() -> None:
    result = JobResult("oom", "now", {"stage": "decode", "error": "Full."}, None, (1.0, 2.0))
    found = [(row.max_new_tokens, row.status) for row, _ in rows_of(job_of(2, 3, 4), result)]
    assert found == [(2, "ok"), (3, "oom"), (4, "oom")]


@pytest.mark.parametrize(
    ("stage", "lengths"), [("decode", [4]), (None, [4]), ("prefill", [2, 3, 4])]
)
def test_lost_stamps_say_nothing_of_shorter_lengths(stage: str, lengths: list[int]) -> None:
    result = JobResult("timeout", "now", {"stage": stage, "error": "Slow."})
    rows = rows_of(job_of(2, 3, 4), result)
    assert [row.max_new_tokens for row, _ in rows] == lengths


def test_a_group_with_a_strategy_that_cannot_be_traced_falls_back() -> None:
    mixed, other = grid("off", "static"), grid(batch_size=2)
    found = with_fallback([*mixed, *other])
    assert [case.method for case in found] == ["each"] * 6 + ["trace"] * 6
    # What was asked for twice is measured once.
    twice = [*(replace(case, method="each") for case in mixed), *mixed]
    assert len(with_fallback(twice)) == 6


def test_what_is_said_of_methods() -> None:
    def said(**keys: Any) -> tuple[str, ...]:
        plan = Plan.parse({"device": "cpu", "max_new_tokens": "10,40"} | keys)
        return method_notices(plan, with_fallback(plan.cases()))

    (fallen,) = said(method="trace", cache="off,dynamic,static")
    assert "static" in fallen and "dynamic" not in fallen
    (saving,) = said()
    assert "--method trace" in saving
    assert said(method="trace") == said(cache="off,static") == said(max_new_tokens="10") == ()


# Sweeps


def sweep(path: Path, engine: FakeEngine | None = None, **keys: Any) -> Swept:
    return start(path / "run", grid(), engine or FakeEngine(), **keys)


def counted(rows: tuple[Sample, ...]) -> Counter[tuple[str, int]]:
    good = (row for row in latest(rows) if row.phase == "measure" and row.status == "ok")
    return Counter((row.cache, row.max_new_tokens) for row in good)


def test_a_sweep_generates_only_the_longest(tmp_path: Path) -> None:
    swept = sweep(tmp_path)
    assert {task.case.max_new_tokens for task in swept.engine.tasks} == {40}
    assert Counter(task.phase for task in swept.engine.tasks) == {"warmup": 2, "measure": 6}
    assert set(counted(swept.rows).values()) == {3} and len(counted(swept.rows)) == 6
    assert {row.method for row in swept.rows} == {"trace"}
    assert len({row.sample_id for row in swept.rows}) == len(swept.rows)
    # Strategies are compared at one length, within rounds.
    for case in summarize_cases(swept.rows):
        assert (case.speedup_rounds == 3) is (case.cache == "dynamic")
        assert case.speedup is None or case.speedup == pytest.approx(2.0)


def test_stamps_are_kept_once_and_serve_all_lengths(tmp_path: Path) -> None:
    swept = sweep(tmp_path)
    run = load_run(swept.path)
    generated = {row.generation_id for row in swept.rows if row.status == "ok"}
    assert set(run.tokens_table["sample_id"]) == generated
    found = latencies(run, [case.id for case in grid()])
    assert {len(found[case.id].positions) + 1 for case in grid()} == set(LENGTHS)


class Killed(Exception):
    """The sweep ends here, as by a kill."""


def test_a_kill_between_the_rows_of_a_generation_is_made_good(tmp_path: Path) -> None:
    from kvbench.records.writer import RunWriter

    append, rows = RunWriter.append, iter(range(99))

    def stop_at_the_fifth(self: RunWriter, *arguments: Any) -> Sample:
        if next(rows) == 4:
            raise Killed
        return append(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "append", stop_at_the_fifth)
        with pytest.raises(Killed):
            sweep(tmp_path)
    swept = sweep(tmp_path)
    rounds: dict[tuple[int, int, int], set[tuple[str, int]]] = {}
    for row in swept.measured:
        place = (row.session, row.worker, row.round)
        rounds.setdefault(place, set()).add((row.cache, row.max_new_tokens))
    # The round that was broken off, and three whole ones after it.
    assert [len(one) for one in rounds.values()] == [2, 6, 6, 6]
    assert len({row.sample_id for row in swept.rows}) == len(swept.rows)
    again = sweep(tmp_path)
    assert again.rows == swept.rows and not again.engine.tasks


def test_a_process_that_is_lost_costs_the_longest_length_alone(tmp_path: Path) -> None:
    def dies(task: Task) -> Failure | None:
        long = task.phase == "measure" and task.case.cache == "off" and task.new_tokens == 40
        return ("crashed", "decode", "Killed.") if long else None

    swept = sweep(tmp_path, FakeEngine(failure=dies))
    failed = [row for row in latest(swept.rows) if row.status != "ok"]
    assert [(row.cache, row.max_new_tokens) for row in failed] == [("off", 40)]
    # Whole rounds of the others; more of those that had been measured when it was lost.
    found = counted(swept.rows)
    assert set(found) == {("off", 10), ("off", 20), *(("dynamic", n) for n in LENGTHS)}
    assert min(found.values()) >= 3
    told = [event.text for event in swept.events if isinstance(event, Notice)]
    assert len(told) == 2


def test_a_loss_in_the_prefill_is_told_once(tmp_path: Path) -> None:
    deaths = iter([True])

    def dies(task: Task) -> Failure | None:
        lost = task.phase == "measure" and next(deaths, False)
        return ("crashed", "prefill", "Killed.") if lost else None

    swept = sweep(tmp_path, FakeEngine(failure=dies))
    assert [isinstance(event, Notice) for event in swept.events].count(True) == 1
    assert set(counted(swept.rows).values()) == {3}


def test_a_short_length_does_not_ask_for_many_long_generations(tmp_path: Path) -> None:
    def seconds(task: Task) -> float:
        return task.new_tokens * 0.1

    rule = StoppingRule(min_repeats=3, max_repeats=30, min_seconds=12.0)
    swept = sweep(tmp_path, FakeEngine(seconds=seconds), rule=rule)
    # Three generations of 4 s; those of the shortest length have 1 s each.
    assert set(counted(swept.rows).values()) == {3}


def test_odd_tokens_are_looked_at_by_length(tmp_path: Path) -> None:
    swept = sweep(tmp_path)
    assert not swept.engine.compared

    class Parting(FakeEngine):
        def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
            result = super().run(job, timeout_s)
            cache = {"off": "0" * 16, "dynamic": "1" * 16}[job.task.case.cache]
            parts = tuple(
                Prefix(task.new_tokens, cache if task.new_tokens > 10 else "2" * 16)
                for task in job.tasks[:-1]
            )
            fields = {**result.fields, "output_sha256": cache}
            return replace(result, fields=fields, prefixes=parts)

    parted = start(tmp_path / "other", grid(), Parting())
    assert [case.max_new_tokens for case in parted.engine.compared] == [20, 40]


# A real model


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("traced")
    model = str(config_folder(folder / "gpt2", ARCHITECTURES["gpt2"]))
    runs = {}
    for method in ("trace", "each"):
        keys = {"model": model, "device": "cpu", "weights": "random", "prompt_tokens": 5}
        plan = Plan.parse(
            keys | {"max_new_tokens": "3,8,12", "repeats": 2, "method": method, "verify": False}
        )
        events: list[Any] = []
        engine: Any = _Local()
        runs[method] = (
            api.sweep(plan, out=folder, name=method, engine=engine, listener=events.append),
            events,
        )
    return runs


class _Local:
    """A LocalEngine as a sweep asks for it."""

    process = 0

    def __init__(self) -> None:
        self._engine = LocalEngine()
        self.open_model: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def open(self, key: Any) -> Any:
        self.open_model = key
        return self._engine.open(key)

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        return self._engine.run(job)

    def take_log(self) -> str:
        return ""


def test_traced_rows_have_the_tokens_and_bytes_of_separate_generations(real: Any) -> None:
    def facts(method: str) -> set[Any]:
        return {
            (row.cache, row.max_new_tokens, row.output_sha256, row.kv_cache_bytes, row.new_tokens)
            for row in real[method][0].samples
            if row.phase == "measure"
        }

    assert facts("trace") == facts("each") and len(facts("trace")) == 6


def test_traced_times_rise_and_peaks_belong_to_the_whole(real: Any) -> None:
    run, events = real["trace"]
    rows = [row for row in run.samples if row.phase == "measure"]
    started = [event for event in events if isinstance(event, SampleStarted)]
    assert len(started) == 2 + 2 * 2 and len(rows) == 12
    for generation in {row.generation_id for row in rows}:
        parts = sorted(
            (row for row in rows if row.generation_id == generation), key=lambda r: r.max_new_tokens
        )
        times = [row.total_s for row in parts]
        assert times == sorted(times) and len({row.ttft_s for row in parts}) == 1
        assert [row.rss_peak_bytes is None for row in parts] == [True, True, False]


def test_a_real_generation_that_dies_leaves_the_lengths_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(config_folder(tmp_path / "gpt2", ARCHITECTURES["gpt2"]))
    engine = LocalEngine()
    cases = grid("dynamic", lengths=(3, 8, 12), model=model, prompt=Prompt.of_tokens(5))
    engine.open(cases[0].model_key)
    (job,) = TRACE.jobs([make_task(case) for case in cases])
    put, puts = TokenClock.put, itertools.count()

    def fail(self: TokenClock, value: Any) -> None:
        # The prompt comes first, so that nine tokens are stamped.
        if next(puts) == 10:
            raise MemoryError("planted")
        put(self, value)

    with monkeypatch.context() as patch:
        patch.setattr(TokenClock, "put", fail)
        rows = [row for row, _ in rows_of(job, engine.run(job))]
    assert [(row.max_new_tokens, row.status) for row in rows] == [(3, "ok"), (8, "ok"), (12, "oom")]
    assert all(row.total_s for row in rows[:2]) and rows[2].stage == "decode"
    # A second one goes well.
    assert {row.status for row, _ in rows_of(job, engine.run(job))} == {"ok"}
