"""Tests of kvbench/run/reach.py and outputs.py: how far a sweep verifies, and when again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvbench.caches import STRATEGIES, CacheStrategy
from kvbench.plan.case import Case, Prompt
from kvbench.run.outputs import differing
from kvbench.run.reach import reach_of
from tests.fakes import make_case


def grid(
    lengths: tuple[int, ...],
    batches: tuple[int, ...] = (1,),
    caches: tuple[str, ...] = ("off", "dynamic"),
    **fields: Any,
) -> list[Case]:
    return [
        make_case(cache=cache, batch_size=batch, max_new_tokens=tokens, **fields)
        for cache in caches
        for batch in batches
        for tokens in lengths
    ]


def size(case: Case | None) -> tuple[int, int] | None:
    return None if case is None else (case.batch_size, case.max_new_tokens)


def test_the_largest_case_is_verified_where_it_costs_less_than_the_samples() -> None:
    cases = grid((10, 40, 100), (1, 4))
    assert size(reach_of(cases, "dynamic", 1)) == (4, 100)
    assert size(reach_of(cases, "dynamic", 6)) == (4, 100)


def test_a_small_plan_is_verified_less_far() -> None:
    # One cached sample only: checking all of it costs two more passes over its tokens.
    alone = grid((1000,), (8,), caches=("dynamic",))
    assert size(reach_of(alone, "dynamic", 1)) == (8, 500)
    assert size(reach_of(alone, "dynamic", 2)) == (8, 1000)
    long = grid((40,), (8,), caches=("dynamic",), prompt=Prompt.of_tokens(5000))
    assert size(reach_of(long, "dynamic", 1)) == (2, 32)


def test_what_is_looked_at_anyway_is_not_looked_at_twice() -> None:
    assert reach_of(grid((10, 32)), "dynamic", 6) is None
    assert size(reach_of(grid((10, 33)), "dynamic", 6)) == (1, 33)
    assert size(reach_of(grid((10,), (2,)), "dynamic", 6)) == (2, 10)
    assert reach_of(grid((1,), (2,)), "dynamic", 6) is None
    assert reach_of(grid((100,), caches=("off",)), "dynamic", 6) is None


def test_the_longest_prompt_is_taken() -> None:
    cases = [c for n in (5, 50) for c in grid((100,), prompt=Prompt.of_tokens(n))]
    far = reach_of(cases, "dynamic", 1)
    assert far is not None
    assert (far.prompt.tokens, far.cache) == (50, "dynamic")


def members(**hashes: str | tuple[str, ...]) -> list[Any]:
    found = []
    for cache, texts in hashes.items():
        case = make_case(cache=cache)
        texts = (texts,) if isinstance(texts, str) else texts
        found.append((case, set(texts)))
    return found


def names(found: tuple[Case, ...]) -> list[str]:
    return [case.cache for case in found]


@pytest.fixture
def strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, lossy in (("static", False), ("quantized", True)):
        entry = CacheStrategy(name=name, description=".", body="a:b", lossy=lossy)
        monkeypatch.setitem(STRATEGIES, name, entry)


@pytest.mark.usefixtures("strategies")
def test_exact_strategies_with_other_tokens_are_looked_at() -> None:
    assert names(differing(members(off="a", dynamic="a", static="a"))) == []
    assert names(differing(members(off="a", dynamic="b", static="a"))) == ["dynamic"]
    assert names(differing(members(off="a", dynamic="b", static="b"))) == ["dynamic", "static"]
    assert names(differing(members(off="a", dynamic=("a", "b")))) == ["dynamic"]
    # Without a baseline it is unknown which of the two it is.
    assert names(differing(members(dynamic="a", static="b"))) == ["dynamic", "static"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_loop_with_other_tokens_is_looked_at_without_a_cache_as_well(order: int) -> None:
    generated = members(off="a", dynamic="a")
    looped = [(replace(case, driver="loop"), {"b"}) for case, _ in generated]
    found = differing([*generated, *looped][::order])
    assert {(case.cache, case.driver) for case in found} == {("off", "loop"), ("dynamic", "loop")}


@pytest.mark.usefixtures("strategies")
def test_other_tokens_are_expected_of_lossy_strategies_and_coarse_dtypes() -> None:
    assert names(differing(members(off="a", quantized="b"))) == []
    coarse = [
        (replace(case, dtype="bfloat16"), hashes) for case, hashes in members(off="a", dynamic="b")
    ]
    assert differing(coarse) == ()


def test_samples_without_tokens_say_nothing() -> None:
    case = make_case()
    assert differing([(make_case(cache="off"), set()), (case, members(dynamic="a")[0][1])]) == ()
