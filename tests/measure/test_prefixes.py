"""Tests of kvbench/measure/prefixes.py, and of stamps that outlive a failed generation."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from kvbench.measure.clock import TokenClock
from kvbench.measure.prefixes import prefixes_of
from tests.tiny import ARCHITECTURES, config_folder, inputs_of, load, run

PROMPT = [5, 17, 9, 300, 44]


def stamped(gaps: list[float]) -> TokenClock:
    """A clock that was stamped by a generation with these seconds between its tokens."""
    clock = TokenClock()
    clock.ticks = list(itertools.accumulate([0.0, *gaps, 0.001]))
    clock._stamps = clock.ticks[1:-1]
    return clock


def test_a_pause_counts_for_the_lengths_that_have_it() -> None:
    # Ten seconds in all; a second at token 5 is a tenth of the whole and half of the first ten.
    clock = stamped([0.1] * 4 + [1.2] + [0.1] * 95)
    found = {one.new_tokens: one.flags for one in prefixes_of(None, clock, (4, 10, 100))}
    assert found == {4: (), 10: ("paused",), 100: ("paused",)}
    late = stamped([0.1] * 50 + [3.0] + [0.1] * 9)
    assert [one.flags for one in prefixes_of(None, late, (10, 50, 60))] == [(), (), ("paused",)]


def test_lengths_that_were_not_reached_are_left_out() -> None:
    clock = stamped([0.1] * 7)
    assert [one.new_tokens for one in prefixes_of(None, clock, (2, 7, 8))] == [2, 7]


def test_each_prefix_has_the_hash_of_a_shorter_generation(tmp_path: Path) -> None:
    model = load(config_folder(tmp_path / "gpt2", ARCHITECTURES["gpt2"]))
    inputs, clock = inputs_of(model, [PROMPT]), TokenClock()
    long = run(model, inputs, "dynamic", 9, clock)
    (found,) = prefixes_of(long, clock, (4,))
    assert found.output_sha256 == run(model, inputs, "dynamic", 4).output_sha256


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_a_generation_that_dies_leaves_the_times_of_its_tokens(cache: str, tmp_path: Path) -> None:
    model = load(config_folder(tmp_path / "gpt2", ARCHITECTURES["gpt2"]))
    forwards = itertools.count(1)

    def fail(_module: Any, _args: Any) -> None:
        if next(forwards) == 6:
            raise MemoryError("planted")

    handle, clock = model.model.register_forward_pre_hook(fail), TokenClock()
    try:
        with pytest.raises(MemoryError):
            run(model, inputs_of(model, [PROMPT]), cache, 9, clock)
    finally:
        handle.remove()
    assert clock.started is not None
    times = clock.times(clock.started)
    assert len(times) == clock.tokens == 5
    assert all(before < after for before, after in itertools.pairwise((0.0, *times)))
