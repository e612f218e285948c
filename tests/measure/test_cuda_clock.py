"""Stamps on a real GPU against an explicit synchronization per token, where a step is long."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import pytest
import torch

from kvbench.caches import strategy
from kvbench.measure.clock import TokenClock
from kvbench.measure.generate import Generation, generate
from kvbench.models.prompts import Encoder
from kvbench.plan.case import Prompt
from tests.tiny import load

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
BATCH, PROMPT, TOKENS = 32, 400, 12


class WaitingClock(TokenClock):
    """A clock that waits for the device at each stamp, and records how long that took."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def put(self, value: Any) -> None:
        start = time.perf_counter()
        torch.cuda.synchronize()
        self.waits.append(time.perf_counter() - start)
        super().put(value)


@pytest.mark.parametrize("cache", ["off", "dynamic"])
def test_a_stamp_needs_no_synchronise_of_its_own(cache: str) -> None:
    loaded = load("gpt2", device=DEVICE)
    inputs = Encoder(loaded, 0).encode(Prompt.of_tokens(PROMPT), BATCH)

    def run(clock: TokenClock) -> Generation:
        return generate(
            loaded,
            inputs,
            strategy(cache),
            TOKENS,
            clock=clock,
            synchronise=torch.cuda.synchronize,
        )

    # Run once before: while libraries and kernels load, the device waits.
    run(TokenClock())
    clock, running = WaitingClock(), list[bool]()
    # As the host leaves the model: a clock read there would time the launch.
    hook = loaded.model.register_forward_hook(
        lambda *_: running.append(not torch.cuda.current_stream().query())
    )
    try:
        stamps = run(clock).token_times
    finally:
        hook.remove()
    # A long step was still running then: without a cache each is long, with one the first.
    assert len(running) == TOKENS
    assert all(running) if cache == "off" else running[0]
    # What waiting for the device adds to a stamp, next to the step that the stamp ends.
    assert len(clock.waits) == TOKENS + 1
    assert clock.waits[1] < 0.1 * stamps[0]
    gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    assert statistics.median(clock.waits[2:]) < 0.05 * statistics.median(gaps)
