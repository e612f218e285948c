"""Tests of the registry of cache strategies."""

from __future__ import annotations

import pytest

from kvbench.caches import (
    BASELINE,
    STRATEGIES,
    CacheStrategy,
    KeptLayer,
    Need,
    Situation,
    strategy,
)
from kvbench.errors import UserError


def test_each_entry_is_registered_under_its_own_name() -> None:
    assert {name: entry.name for name, entry in STRATEGIES.items()} == {n: n for n in STRATEGIES}


def test_the_baseline_is_the_one_strategy_without_a_cache() -> None:
    assert [name for name, entry in STRATEGIES.items() if not entry.use_cache] == [BASELINE]


def test_dynamic_keeps_what_it_has_seen_within_the_window() -> None:
    dynamic = strategy("dynamic")
    assert dynamic.kept(KeptLayer(seen=100, numbers=8, window=None, width=2)) == 1600
    assert dynamic.kept(KeptLayer(seen=100, numbers=8, window=32, width=2)) == 31 * 16
    assert dynamic.kept(KeptLayer(seen=10, numbers=8, window=32, width=2)) == 160
    assert strategy("off").kept(KeptLayer(seen=100, numbers=8, window=None, width=2)) == 0


def test_a_need_that_is_not_met_is_a_sentence_with_the_name() -> None:
    entry = CacheStrategy(
        name="x",
        description="X.",
        body="a:b",
        needs=(
            Need(lambda here: here.windows, "the model has no window."),
            Need(lambda here: here.device == "cuda", "it needs a CUDA device."),
        ),
    )
    assert entry.unmet(Situation(device="cpu")) == "x: the model has no window."
    assert entry.unmet(Situation(device="cpu", windows=True)) == "x: it needs a CUDA device."
    assert entry.unmet(Situation(device="cuda", windows=True)) is None


@pytest.mark.parametrize("name", ["off", "dynamic"])
def test_what_does_not_compile_warms_up_shortly_and_loses_nothing(name: str) -> None:
    assert strategy(name).warmup == "short"
    assert not strategy(name).lossy


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_description_is_one_line_and_a_sentence(name: str) -> None:
    description = strategy(name).description
    assert description.endswith(".")
    assert "\n" not in description


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UserError) as caught:
        strategy("dynamc")
    known = ", ".join(STRATEGIES)
    expected = f"cache: no strategy 'dynamc'; known: {known}; did you mean 'dynamic'?"
    assert str(caught.value) == expected


def test_an_unknown_name_near_to_none_gets_the_list() -> None:
    with pytest.raises(UserError) as caught:
        strategy("zzz")
    assert str(caught.value) == f"cache: no strategy 'zzz'; known: {', '.join(STRATEGIES)}."


def test_a_name_with_a_line_break_is_still_told_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        strategy("o\nff")
    assert len(str(caught.value).splitlines()) == 1
