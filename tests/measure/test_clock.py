"""The clock: one stamp for each new token and none for the prompt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache
from transformers.generation import utils

from kvbench.measure import clock as clock_module
from kvbench.measure.clock import TokenClock


def fed(steps: int) -> TokenClock:
    """Return a clock that received a prompt and this many tokens."""
    clock = TokenClock()
    clock.put(torch.tensor([[5, 17, 9]]))
    for step in range(steps):
        clock.put(torch.tensor([step]))
    clock.end()
    return clock


def test_a_new_clock_has_no_stamps() -> None:
    assert TokenClock().tokens == 0
    assert TokenClock().times(0.0) == ()


def test_the_prompt_is_not_stamped() -> None:
    assert fed(0).tokens == 0
    assert fed(0).times(0.0) == ()


@pytest.mark.parametrize("steps", [1, 2, 17])
def test_each_new_token_is_stamped_once(steps: int) -> None:
    clock = fed(steps)
    assert clock.tokens == len(clock.times(0.0)) == steps


def test_stamps_are_seconds_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # The prompt, three tokens, the end.
    readings = iter([10.25, 11.0, 11.5, 13.25, 13.5])
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert fed(3).times(10.0) == (1.0, 1.5, 3.25)


@pytest.mark.parametrize(("steps", "told"), [(0, []), (1, [1]), (5, [1])])
def test_the_first_token_is_told_once_after_its_stamp(steps: int, told: list[int]) -> None:
    seen: list[int] = []
    clock = TokenClock(lambda: seen.append(clock.tokens))
    for _ in range(steps + 1):
        clock.put(torch.tensor([7]))
    assert seen == told


def test_the_end_adds_nothing() -> None:
    clock = fed(2)
    before = clock.times(0.0)
    clock.end()
    assert clock.times(0.0) == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("returned", [False, True])
def test_transformers_defers_no_token_on_these_devices(device: str, returned: bool) -> None:
    """On some it passes each token one step late: stamps would belong to the step before."""
    deferred = getattr(utils, "DeferredStopCheck", None)
    if deferred is None:
        pytest.skip("this Transformers never defers")
    cache = DynamicCache()
    assert not deferred.is_supported(torch.device(device), cache, returned, False)


def test_a_driver_may_note_all_stamps_at_once() -> None:
    said: list[str] = []
    clock = TokenClock(lambda: said.append("first"), lambda: 0.5)
    clock.put(None)
    clock.note([11.0, 12.5])
    assert clock.tokens == 2
    assert clock.times(10.0) == (1.0, 2.5)
    assert clock.ticks[1:3] == [11.0, 12.5] and len(clock.ticks) == 4
    assert clock.used == []
    assert said == ["first"]
