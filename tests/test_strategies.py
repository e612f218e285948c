"""Tests of kvbench/strategies.py."""

from __future__ import annotations

import pytest

from kvbench.errors import UserError
from kvbench.strategies import BASELINE, STRATEGIES, strategy


def test_each_entry_is_registered_under_its_own_name() -> None:
    assert {name: entry.name for name, entry in STRATEGIES.items()} == {n: n for n in STRATEGIES}


def test_the_baseline_is_the_one_strategy_without_a_cache() -> None:
    assert [name for name, entry in STRATEGIES.items() if not entry.use_cache] == [BASELINE]


def test_dynamic_is_transformers_default() -> None:
    assert strategy("dynamic").use_cache
    assert dict(strategy("dynamic").generate_options) == {}


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
    expected = "cache: no strategy 'dynamc'; known: off, dynamic; did you mean 'dynamic'?"
    assert str(caught.value) == expected


def test_an_unknown_name_near_to_none_gets_the_list() -> None:
    with pytest.raises(UserError) as caught:
        strategy("zzz")
    assert str(caught.value) == "cache: no strategy 'zzz'; known: off, dynamic."


def test_a_name_with_a_line_break_is_still_told_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        strategy("o\nff")
    assert len(str(caught.value).splitlines()) == 1
