"""Tests of kvbench/theory/strategies.py: what each strategy holds, and how fast it can be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kvbench.caches import STRATEGIES, CacheStrategy, KeptLayer, expand, strategy
from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.theory.advice import needed_bytes
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes, held_bytes
from kvbench.theory.estimate import estimate
from kvbench.theory.floors import floor
from kvbench.theory.peaks import published
from kvbench.theory.strategies import estimate_strategies, situation_of, strategy_floor
from kvbench.theory.work import Work
from tests.theory.families import architecture

GPT2 = Architecture.from_config(CATALOGUE["gpt2"].config)
WORK = Work(batch=2, prompt_tokens=100, new_tokens=400)
BOARD = published("T4")
assert BOARD is not None
T4 = dataclasses.replace(BOARD, host_bytes_per_s=10e9)
FP8, ALL = "quantized:backend=fp8", expand(["all"])
PLAIN = cache_bytes(GPT2, "dynamic", *WORK.sizes, "float32")


def bound(cache: str) -> float:
    return strategy_floor(GPT2, cache, WORK, T4).seconds


def test_every_strategy_has_an_answer_or_a_reason() -> None:
    rows = estimate("gpt2", GPT2, WORK, rates=[T4], memory_bytes=4 << 30, caches=ALL).strategies
    assert [row.cache for row in rows] == list(ALL)
    assert {row.cache for row in rows if row.reason} == {"dynamic-full"}
    for row in rows:
        if row.reason is None:
            assert row.largest_batch and row.longest_context and row.needed_bytes
            assert row.bounds[0].seconds and row.bounds[0].reason is None


def test_the_bytes_lie_where_the_entry_says() -> None:
    held = {name: held_bytes(GPT2, name, *WORK.sizes, "float32") for name in ALL}
    assert (held["dynamic"].device, held["off"].device) == (PLAIN, 0)
    # Two of 12 layers are on the device at a time, and one at the end.
    assert (held["offloaded"].host, held["offloaded"].device) == (PLAIN * 11 // 12, PLAIN // 6)
    assert held["disk"].device + held["disk"].disk == held["disk"].attended == PLAIN
    assert held["disk"].device == PLAIN * 64 // 499
    # 100 positions doubled three times hold 499; whole pages of 256 and blocks of 16 do, too. Two
    # more pages of the pool are for padding of either sequence.
    rooms = {"prealloc": 800, "paged": 512 + 256, "blocks": 512}
    assert {name: held[name].device for name in rooms} == {
        name: PLAIN * room // 499 for name, room in rooms.items()
    }
    assert all(one.attended <= one.device + one.host + one.disk for one in held.values())


def test_the_bytes_on_the_host_are_those_recorded_on_an_h200() -> None:
    """results/h200-2026-11-26: columns kv_cache_bytes and cache_host_bytes."""
    known = Architecture.from_config(CATALOGUE["llama-3.2-1b"].config)
    for work, attended, host in (
        ((1, 32, 128), 5_210_112, 4_884_480),
        ((8, 32, 64), 24_903_680, 23_347_200),
    ):
        held = held_bytes(known, "offloaded", *work, "bfloat16")
        assert (held.attended, held.host) == (attended, host)


def test_lower_bounds_follow_what_a_step_reads() -> None:
    for name in ("dynamic", "off"):
        assert bound(name) == floor(GPT2, name, *WORK.sizes, "float32", T4).seconds
    # A buffer is read whole from the first step on; a window never reads more than it keeps.
    assert bound("window:size=50") < bound("dynamic") < bound("static") < bound("off")
    moved = {name: strategy_floor(GPT2, name, WORK, T4).moved for name in (FP8, "dynamic")}
    extra = moved[FP8] - moved["dynamic"]
    # Read in one byte instead of four, then written in four, and those are read.
    last = cache_bytes(GPT2, "dynamic", 2, 100, 399, "float32")
    assert extra[0] == 0
    np.testing.assert_allclose(extra[-1], last + last / 4, rtol=1e-6)


def test_an_offloaded_cache_crosses_the_bus_at_the_probed_rate() -> None:
    slow = dataclasses.replace(T4, host_bytes_per_s=1e6)
    found = strategy_floor(GPT2, "offloaded", WORK, slow)
    kept = cache_bytes(GPT2, "dynamic", 2, 100, 399, "float32")
    assert found.steps[-1] == pytest.approx(kept / 1e6, rel=1e-6)
    with pytest.raises(UserError) as caught:
        strategy_floor(GPT2, "offloaded", WORK, BOARD)
    assert caught.value.kind == "rate_unknown"
    (row,) = estimate_strategies(GPT2, WORK, ["offloaded"], rates=[BOARD])
    assert row.bounds[0].seconds is None and row.bounds[0].reason
    # The cache is not on the device, so more of it fits there.
    assert needed_bytes(GPT2, WORK, "offloaded") < needed_bytes(GPT2, WORK, "dynamic") / 2


def test_a_strategy_has_no_bound_on_a_kind_of_device_that_it_cannot_use() -> None:
    here = dataclasses.replace(T4, device="cpu")
    (row,) = estimate_strategies(GPT2, WORK, ["static-compiled"], rates=[here])
    assert row.attended_bytes and row.bounds[0].seconds is None


def test_an_entry_answers_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy that nobody knows by name is covered as far as its entry tells."""

    def spare(layer: KeptLayer, positions: int, _: object) -> int:
        return 3 * positions

    entry = CacheStrategy(name="new", description="New.", body="no.module:at_all", room=spare)
    monkeypatch.setitem(STRATEGIES, "new", entry)
    (row,) = estimate_strategies(GPT2, WORK, ["new"], rates=[T4])
    assert (row.attended_bytes, row.device_bytes) == (PLAIN, 3 * PLAIN)
    assert row.bounds[0].seconds == bound("dynamic")


@pytest.mark.parametrize("name", ["mistral", "qwen3_next", "deepseek_v3", "t5", "gpt2"])
def test_the_needs_of_strategies_are_checked_against_the_architecture(name: str) -> None:
    here = situation_of(architecture(name), "cpu", "float32")
    assert here.encoder_decoder == (name == "t5")
    assert here.windows == (name == "mistral")
    refused = strategy("blocks").unmet_by_model(here) is not None
    assert refused == (name != "gpt2")
