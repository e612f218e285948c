"""Tests of kvbench/analysis/sampled.py: totals from steps at chosen positions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from kvbench.analysis.positions import MOST_POSITIONS, blocks_of, start_tokens
from kvbench.analysis.sampled import (
    LEAST_HELD_BACK,
    Block,
    Curve,
    Measured,
    can_sample,
    rows_of_steps,
)
from kvbench.caches import strategy
from kvbench.catalogue import CATALOGUE
from kvbench.plan.case import Task
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from tests.fakes import make_case

TTFT, TAIL = 0.3, 0.01
Step = Callable[[float], float]

SHAPES: dict[str, Step] = {
    "flat": lambda k: 0.04,
    "linear": lambda k: 0.02 + 0.001 * k,
    "square": lambda k: 0.02 + 0.001 * k + 2e-6 * k * k,
    "falling": lambda k: 0.05 - 1e-5 * k,
}


def measure(step: Step, lengths: tuple[int, ...], *, cached: bool = False) -> Measured:
    start = start_tokens(lengths)
    stamps = itertools.accumulate([TTFT, *(step(k) for k in range(2, start + 1))])
    blocks = [Block(b.start, tuple(step(k) for k in b)) for b in blocks_of(lengths, cached=cached)]
    return Measured((tuple(stamps),) * 2, TAIL, tuple(blocks))


def total(step: Step, tokens: int) -> float:
    return TTFT + sum(step(k) for k in range(2, tokens + 1)) + TAIL


@pytest.mark.parametrize("lengths", [(10, 110, 210, 310), (64,), (10, 1000), (16384,), (9, 30)])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_smooth_curve_is_summed_to_a_thousandth(shape: str, lengths: tuple[int, ...]) -> None:
    step = SHAPES[shape]
    curve = Curve(measure(step, lengths))
    for tokens in lengths:
        found = curve.times(tokens)
        assert found.total_s == pytest.approx(total(step, tokens), rel=2e-3)
        assert found.ttft_s == pytest.approx(TTFT)
        assert found.itl_s == pytest.approx((found.total_s - TTFT) / (tokens - 1))


def test_the_beginning_is_what_was_generated() -> None:
    curve = Curve(measure(SHAPES["linear"], (10, 310)))
    assert curve.times(1).total_s == pytest.approx(TTFT + TAIL)
    assert curve.times(1).itl_s is None
    assert curve.times(10).total_s == pytest.approx(total(SHAPES["linear"], 10))


def test_what_generate_takes_before_its_first_forward_is_part_of_every_total() -> None:
    plain, slow = (measure(SHAPES["flat"], (10, 310)) for _ in range(2))
    later = tuple(tuple(stamp + 0.5 for stamp in one) for one in slow.starts)
    slow = Measured(later, TAIL, slow.blocks)
    gained = Curve(slow).times(310).total_s - Curve(plain).times(310).total_s
    assert gained == pytest.approx(0.5)


def test_slow_steps_count_by_what_they_add() -> None:
    # One step of two takes three times as long: the mean has it, the better of two would not.
    start = (tuple(0.1 * k for k in range(1, 11)),)
    blocks = tuple(Block(k, (0.1, 0.3)) for k in (*range(11, 309, 20), 309))
    found = Curve(Measured(start, 0.0, blocks)).times(310).total_s
    assert found == pytest.approx(1.0 + 300 * 0.2)


def test_no_length_is_claimed_past_what_was_measured() -> None:
    with pytest.raises(ValueError, match="past 310"):
        Curve(measure(SHAPES["flat"], (10, 310))).times(311)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("last", [9, 10, 11, 12, 17, 30, 64, 310, 1000, 16384, 2**20])
def test_positions_are_few_and_reach_both_ends(last: int, cached: bool) -> None:
    lengths = tuple(sorted({min(10, last), last}))
    blocks = blocks_of(lengths, cached=cached)
    assert len(blocks) <= MOST_POSITIONS
    start = start_tokens(lengths)
    tokens = [token for block in blocks for token in block]
    assert all(start < token <= last for token in tokens)
    if last > start:
        assert (tokens[0], max(tokens)) == (start + 1, last)
    assert list(blocks) == sorted(blocks, key=lambda block: block.start)


def test_sampling_costs_a_small_share_of_the_articles_table() -> None:
    lengths = (10, 110, 210, 310)
    # Without a cache a step over k tokens costs about k.
    table = sum(sum(range(n)) for n in lengths)
    own = sum(sum(block) for block in blocks_of(lengths, cached=False))
    assert own < 0.10 * table


def test_more_lengths_are_worth_more_steps_at_each_position() -> None:
    few, many = blocks_of((1000,), cached=False), blocks_of(range(100, 1001, 100), cached=False)
    assert {len(block) for block in few} == {2}
    assert {len(block) for block in many} == {8}
    assert {len(block) for block in blocks_of((1000,), cached=True)} == {4}


def noisy(rng: np.random.Generator, share: float, lengths: tuple[int, ...]) -> Measured:
    exact = measure(SHAPES["linear"], lengths)
    blocks = [
        Block(b.first, tuple(s * (1 + share * rng.standard_normal()) for s in b.seconds))
        for b in exact.blocks
    ]
    starts = tuple(
        tuple(stamp * (1 + share * rng.standard_normal() / 4) for stamp in one)
        for one in exact.starts
    )
    return Measured(starts, TAIL, tuple(blocks))


def test_nine_intervals_of_ten_hold_the_truth_and_are_no_wider_than_needed() -> None:
    rng, lengths = np.random.default_rng(4), (10, 110, 210, 310)
    held, widths = [], []
    for _ in range(100):
        curve = Curve(noisy(rng, 0.1, lengths))
        for tokens in lengths[1:]:
            found = curve.times(tokens)
            assert found.low_s is not None and found.high_s is not None
            held.append(found.low_s <= total(SHAPES["linear"], tokens) <= found.high_s)
            widths.append(found.high_s / found.low_s)
    assert np.mean(held) >= 0.9
    # With 10 % of noise in a step, a total of so many positions is known to some per cent.
    assert np.median(widths) < 1.2


def test_more_noise_makes_a_wider_interval() -> None:
    def width(share: float) -> float:
        found = Curve(noisy(np.random.default_rng(1), share, (10, 310))).times(310)
        assert found.low_s is not None and found.high_s is not None
        return found.high_s - found.low_s

    assert width(0.2) > 2 * width(0.05) > 0


def test_too_few_positions_have_no_interval() -> None:
    blocks = tuple(Block(10 * k, (0.1,)) for k in range(1, LEAST_HELD_BACK + 2))
    found = Curve(Measured(((0.1, 0.2),), 0.0, blocks)).times(50)
    assert (found.low_s, found.high_s) == (None, None)
    blocks += (Block(60, (0.1,)),)
    assert Curve(Measured(((0.1, 0.2),), 0.0, blocks)).times(50).low_s is not None


@pytest.mark.parametrize(
    ("cache", "can"),
    [
        ("off", True),
        ("dynamic", True),
        ("offloaded", False),
        ("static", False),
        ("static-compiled", False),
        # What is requantized from time to time is not in a single step.
        ("quantized:backend=fp8", False),
    ],
)
def test_steps_that_depend_on_their_position_alone_can_be_sampled(cache: str, can: bool) -> None:
    assert can_sample(strategy(cache)) is can


def test_rows_are_marked_and_have_their_interval() -> None:
    lengths = (10, 310)
    config = CATALOGUE["gpt2"].config
    assert config is not None
    gpt2 = Architecture.from_config(config)
    tasks = [Task(make_case(max_new_tokens=n, batch_size=2), "measure", 1, 1, n) for n in lengths]
    measured = measure(SHAPES["linear"], lengths, cached=True)
    size = cache_bytes(gpt2, "dynamic", 2, 6, start_tokens(lengths), "float32")
    known = {"prompt_tokens": 6, "architecture": gpt2}
    short, long = rows_of_steps(measured, tasks, start_bytes=size, flags="paused", **known)
    assert (short.method, long.method, long.flags) == ("sampled", "sampled", "paused")
    assert long.total_s == pytest.approx(total(SHAPES["linear"], 310), rel=2e-3)
    assert long.total_s_low is not None and long.total_s_high is not None
    assert long.total_s_low <= long.total_s <= long.total_s_high
    assert long.tokens_per_s == pytest.approx(2 * 310 / long.total_s)
    assert long.kv_cache_bytes == cache_bytes(gpt2, "dynamic", 2, 6, 310, "float32")
    assert (long.new_tokens, long.output_sha256, long.energy_j) == (None, None, None)
    # The arithmetic did not give what was measured after a start: nothing is claimed.
    wrong = rows_of_steps(measured, tasks, start_bytes=size + 1, **known)
    assert [row.kv_cache_bytes for row in wrong] == [None, None]
