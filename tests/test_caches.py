"""Tests of the registry of cache strategies."""

from __future__ import annotations

from typing import Any

import pytest

from kvbench.caches import (
    ALL,
    BASELINE,
    STRATEGIES,
    CacheStrategy,
    KeptLayer,
    Need,
    Parameter,
    Situation,
    expand,
    may_be_left_out,
    strategy,
)
from kvbench.errors import UserError
from kvbench.plan.plan import Plan


def test_each_entry_is_registered_under_its_own_name() -> None:
    assert {name: entry.name for name, entry in STRATEGIES.items()} == {n: n for n in STRATEGIES}


def test_the_baseline_is_the_one_strategy_without_a_cache() -> None:
    assert [name for name, entry in STRATEGIES.items() if not entry.use_cache] == [BASELINE]


def test_dynamic_keeps_what_it_has_seen_within_the_window() -> None:
    dynamic = strategy("dynamic")
    assert dynamic.bytes_kept(KeptLayer(seen=100, numbers=8, window=None, width=2)) == 1600
    assert dynamic.bytes_kept(KeptLayer(seen=100, numbers=8, window=32, width=2)) == 31 * 16
    assert dynamic.bytes_kept(KeptLayer(seen=10, numbers=8, window=32, width=2)) == 160
    assert strategy("off").bytes_kept(KeptLayer(seen=100, numbers=8, window=None, width=2)) == 0


def test_a_need_that_is_not_met_is_a_sentence_with_the_name(snapshot: object) -> None:
    entry = CacheStrategy(
        name="x",
        description="X.",
        body="a:b",
        needs=(
            Need(lambda here, _: here.windows, "the model has no window.", "a window"),
            Need(
                lambda here, _: here.device == "cuda",
                "it needs a CUDA device.",
                "CUDA",
                of_machine=True,
            ),
        ),
    )
    assert entry.unmet(Situation(device="cpu")) == snapshot
    assert entry.unmet(Situation(device="cpu", windows=True)) == snapshot
    assert entry.unmet(Situation(device="cuda", windows=True)) is None
    assert entry.unmet_here(Situation(device="cuda")) is None
    assert entry.unmet_here(Situation(device="cpu")) == snapshot


@pytest.mark.parametrize("name", ["off", "dynamic"])
def test_what_does_not_compile_warms_up_shortly_and_loses_nothing(name: str) -> None:
    assert strategy(name).warmup == "short"
    assert not strategy(name).lossy


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_description_is_one_line_and_a_sentence(name: str) -> None:
    description = STRATEGIES[name].description
    assert description.endswith(".")
    assert "\n" not in description


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UserError) as caught:
        strategy("dynamc")
    known = ", ".join(STRATEGIES)
    expected = f"cache: no strategy 'dynamc'; known: {known}; did you mean 'dynamic'?"
    assert str(caught.value) == expected


def test_an_unknown_name_near_to_none_gets_the_list(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        strategy("zzz")
    assert str(caught.value) == snapshot


def test_a_name_with_a_line_break_is_still_told_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        strategy("o\nff")
    assert len(str(caught.value).splitlines()) == 1


# Parameters


SIZED = CacheStrategy(
    name="sized",
    description="For tests.",
    body="a:b",
    parameters=(
        Parameter("size", "Positions.", default=256),
        Parameter("kind", "A word.", choices=("plain", "fancy")),
        Parameter("bits", "A number.", 4, ("2", "4"), only_with=("kind", ("fancy",))),
    ),
)


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "sized", SIZED)


@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize(
    ("given", "name", "settings"),
    [
        ("sized:kind=plain", "sized:kind=plain", {"kind": "plain", "size": 256}),
        (
            "sized:size=64:kind=fancy:bits=4",
            "sized:kind=fancy:size=64",
            {"kind": "fancy", "size": 64, "bits": 4},
        ),
        (
            "sized:kind=fancy:bits=2",
            "sized:bits=2:kind=fancy",
            {"kind": "fancy", "size": 256, "bits": 2},
        ),
        ("sized:size=0256:kind=plain", "sized:kind=plain", {"kind": "plain", "size": 256}),
    ],
)
def test_the_canonical_name_is_sorted_and_without_defaults(
    given: str, name: str, settings: dict[str, Any]
) -> None:
    entry = strategy(given)
    assert (entry.name, dict(entry.settings)) == (name, settings)
    assert strategy(name) == entry
    assert Plan.parse({"cache": [given, "off"]}).cache == (name, "off")


@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize(
    "given",
    [
        "sized",
        "sized:kind=odd",
        "sized:kind=plain:bits=2",
        "sized:kind=fancy:bits=3",
        "sized:kind=plain:size=0",
        "sized:kind=plain:size=-1",
        "sized:kind=plain:size",
        "sized:kind=plain:kind=plain",
        "sized:kinds=plain",
        "off:size=1",
    ],
)
def test_a_wrong_parameter_is_one_sentence(given: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        strategy(given)
    assert str(caught.value) == snapshot


# All


def test_all_is_every_strategy_with_each_choice_that_must_be_made() -> None:
    names = expand(["static", ALL])
    assert names[0] == "static"
    assert len(set(names)) == len(names)
    assert {name.split(":")[0] for name in names} == set(STRATEGIES)
    assert "quantized:backend=fp8" in names
    plan = Plan.parse({"cache": "all", "device": "cpu"})
    assert plan.cache == (ALL,)
    assert tuple(dict.fromkeys(case.cache for case in plan.cases())) == expand([ALL])


def test_a_group_is_its_members() -> None:
    by_hand, theirs = expand(["by-hand"]), expand(["transformers"])
    assert {"concat", "disk"} <= {*by_hand}
    assert {"off", "dynamic", "quantized:backend=hqq", "paged"} <= {*theirs}
    assert (*theirs, *by_hand) == expand([ALL])
    plan = Plan.parse({"cache": "off,by-hand", "device": "cpu"})
    assert plan.cache == ("off", "by-hand")
    assert tuple(dict.fromkeys(case.cache for case in plan.cases())) == ("off", *by_hand)


def test_only_what_a_group_has_added_may_be_left_out() -> None:
    assert may_be_left_out("offloaded", ["off", "transformers"])
    assert may_be_left_out("offloaded", ["off", ALL])
    assert not may_be_left_out("off", ["off", ALL])
    assert not may_be_left_out("offloaded", ["off", "offloaded"])
