"""Warm-ups cover what is timed: on a GPU in half precision, every key length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvbench.analysis.cold import cold_starts
from kvbench.caches import STRATEGIES, CacheStrategy
from kvbench.measure.stopping import StoppingRule
from kvbench.plan.case import Case, Prompt, Task
from kvbench.plan.plan import Plan
from kvbench.run.warmup import SHORT_TOKENS, covered, longest, scope_of, warmup_tokens
from tests.fakes import Failure, FakeEngine, make_case
from tests.run.test_sweep import Swept, start

SIX = StoppingRule(repeats=6)
STEP_S, PLAN_S = 0.006, 0.07


def gpu_case(**fields: object) -> Case:
    return make_case(**({"device": "cuda", "dtype": "bfloat16"} | fields))


# How long a warm-up is


@pytest.mark.parametrize(("tokens", "warm"), [(1, 1), (15, 15), (16, 16), (17, 16), (1000, 16)])
@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_on_a_cpu_a_warm_up_is_short(cache: str, tokens: int, warm: int) -> None:
    assert SHORT_TOKENS == 16
    assert warmup_tokens(make_case(cache=cache, max_new_tokens=tokens), "auto") == warm


@pytest.mark.parametrize(
    ("device", "dtype", "warmup", "scope"),
    [
        ("cpu", "float32", "auto", "short"),
        ("cpu", "bfloat16", "auto", "short"),
        ("cuda", "float32", "auto", "short"),
        ("cuda", "bfloat16", "auto", "shape"),
        ("cuda:1", "float16", "auto", "shape"),
        ("cuda", "bfloat16", "16", "short"),
        ("cpu", "float32", "full", "shape"),
    ],
)
def test_how_a_case_is_warmed_up(device: str, dtype: str, warmup: str, scope: str) -> None:
    case = make_case(device=device, dtype=dtype, max_new_tokens=400)
    assert scope_of(case, warmup) == scope
    assert warmup_tokens(case, warmup) == (16 if scope == "short" else 400)


def test_a_number_is_the_length_of_a_short_one() -> None:
    assert warmup_tokens(make_case(max_new_tokens=400), "64") == 64
    assert warmup_tokens(make_case(max_new_tokens=40), "64") == 40


def test_a_strategy_that_depends_on_the_length_is_warmed_up_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = CacheStrategy(name="whole", description="Compiles.", body="a:b", warmup="full")
    monkeypatch.setitem(STRATEGIES, "whole", whole)
    short, long = (make_case(cache="whole", max_new_tokens=n) for n in (100, 400))
    assert warmup_tokens(long, "auto") == 400
    assert longest(short, [short, long], "auto") == short
    assert covered(long, [short, long], "auto") == (long,)


def test_the_longest_case_of_the_same_shapes_covers_the_shorter_ones() -> None:
    lengths = [gpu_case(max_new_tokens=n) for n in (64, 1024, 256)]
    others = [
        gpu_case(max_new_tokens=2048, batch_size=8),
        gpu_case(max_new_tokens=2048, cache="off"),
        gpu_case(max_new_tokens=2048, prompt=Prompt.of_tokens(32)),
    ]
    assert longest(lengths[0], [*lengths, *others], "auto") == lengths[1]
    assert set(covered(lengths[1], [*lengths, *others], "auto")) == set(lengths)
    assert set(covered(lengths[2], [*lengths, *others], "auto")) == {lengths[0], lengths[2]}


@pytest.mark.parametrize(
    ("given", "read"), [("auto", "auto"), ("full", "full"), (16, "16"), ("032", "32")]
)
def test_the_plan_takes_a_word_or_a_number(given: object, read: str) -> None:
    assert Plan.parse({"warmup": given}).warmup == read


@pytest.mark.parametrize("given", ["0", -1, "long", True, 1.5, "9" * 100])
def test_the_plan_refuses_anything_else(given: object) -> None:
    with pytest.raises(Exception, match="warmup: "):
        Plan.parse({"warmup": given})


# Live


@dataclass
class ColdEngine(FakeEngine):
    """A GPU that plans for each new key length, per strategy and batch, as cuDNN does.

    Attributes:
        lost_after: the process is lost at these task counts.
        seen: what this process has planned for.
    """

    lost_after: tuple[int, ...] = ()
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    seen: set[tuple[str, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seconds = self._seconds
        self.failure = self._failure

    def _failure(self, task: Task) -> Failure | None:
        if len(self.tasks) in self.lost_after:
            self.seen.clear()
            return "crashed", "decode", "Killed."
        return None

    def _seconds(self, task: Task) -> float:
        case = task.case
        start = case.prompt.tokens or 6
        keys = {(case.cache, case.batch_size, start + i) for i in range(task.new_tokens)}
        new = len(keys - self.seen)
        self.seen |= keys
        return (task.new_tokens * STEP_S + new * PLAN_S) * self.rng.uniform(0.99, 1.01)


def gpu_grid(lengths: Sequence[int] = (64, 256, 1024)) -> list[Case]:
    return [
        gpu_case(cache=cache, max_new_tokens=n, batch_size=batch)
        for batch in (1, 8)
        for n in lengths
        for cache in ("off", "dynamic")
    ]


def assert_no_cold_sample(swept: Swept) -> None:
    counted = [row for row in swept.measured if row.status == "ok"]
    assert counted
    for row in counted:
        assert row.total_s is not None
        assert row.total_s < 1.1 * row.max_new_tokens * STEP_S, row.sample_id
    assert not cold_starts(counted)


def test_no_counted_sample_is_cold(tmp_path: Path) -> None:
    swept = start(tmp_path / "run", gpu_grid(), ColdEngine(), rule=SIX)
    assert_no_cold_sample(swept)
    warmups = [row for row in swept.rows if row.phase == "warmup"]
    # One for each strategy and batch size, of the longest case.
    assert [row.max_new_tokens for row in warmups] == [1024] * 4
    assert {row.new_tokens for row in warmups} == {1024}
    for row in warmups:
        assert row.total_s is not None
        assert row.total_s > 1024 * PLAN_S
        assert row.cold_after is not None
    assert warmups[0].cold_after == "verification"
    assert all(row.cold_after is None for row in swept.measured)


def test_a_short_warm_up_leaves_cold_samples_there(tmp_path: Path) -> None:
    swept = start(tmp_path / "run", gpu_grid(), ColdEngine(), rule=SIX, warmup="16")
    # The engine shows what the full warm-up is for.
    with pytest.raises(AssertionError):
        assert_no_cold_sample(swept)


@pytest.mark.parametrize("lost_after", [(1,), (5,), (9, 20), (30,)])
def test_no_counted_sample_is_cold_after_a_lost_worker(
    tmp_path: Path, lost_after: tuple[int, ...]
) -> None:
    swept = start(tmp_path / "run", gpu_grid(), ColdEngine(lost_after=lost_after), rule=SIX)
    assert any(row.status == "crashed" for row in swept.rows)
    assert_no_cold_sample(swept)


def test_where_the_longest_case_fails_the_next_one_warms_up(tmp_path: Path) -> None:
    engine = FakeEngine(
        failure=lambda task: (
            ("oom", "decode", "Out of memory.") if task.case.max_new_tokens == 1024 else None
        )
    )
    swept = start(tmp_path / "run", [gpu_case(max_new_tokens=n) for n in (64, 256, 1024)], engine)
    warmups = [(row.max_new_tokens, row.status) for row in swept.rows if row.phase == "warmup"]
    assert warmups == [(1024, "oom"), (256, "ok")]
    assert {row.max_new_tokens for row in swept.measured if row.status == "ok"} == {64, 256}
