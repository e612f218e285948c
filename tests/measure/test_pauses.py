"""Pauses, on hand-made stamps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbench.measure.clock import TokenClock
from kvbench.measure.pauses import paused, suspended_s

PREFILL, TOKEN, END = 0.5, 0.02, 0.001


def ticks(gaps: Sequence[float]) -> list[float]:
    """Return the readings of a clock that starts anywhere."""
    return [5.0, *(5.0 + passed for passed in itertools.accumulate(gaps))]


def run(tokens: int = 100, **longer: float) -> list[float]:
    """Return the gaps of a run; `at7=10` adds ten seconds to the gap of that number."""
    gaps = [PREFILL, *[TOKEN] * (tokens - 1), END]
    for name, seconds in longer.items():
        gaps[int(name.removeprefix("at"))] += seconds
    return gaps


def on_cpu(gaps: Sequence[float], threads: float = 1.0, **away: float) -> bool:
    """Return whether a CPU run counts as paused that was away for some seconds of its gaps."""
    used = [gap * threads for gap in gaps]
    for name, seconds in away.items():
        used[int(name.removeprefix("at"))] -= seconds * threads
    return paused(ticks(gaps), ticks(used))


@pytest.mark.parametrize("threads", [0.3, 1.0, 2.0, 8.0])
def test_a_run_without_a_pause_has_none(threads: float) -> None:
    assert not on_cpu(run(), threads)
    assert not paused(ticks(run()))


@pytest.mark.parametrize("threads", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("at", ["at1", "at50", "at100"])
def test_a_stopped_worker_is_seen(threads: float, at: str) -> None:
    # 10 s in a sample of 2.6 s, which was `ok` and had no flag.
    assert on_cpu(run(**{at: 10.0}), threads, **{at: 10.0})


def test_a_stop_in_the_prefill_is_seen_by_the_processor_time() -> None:
    assert on_cpu(run(at0=10.0), 1.0, at0=10.0)
    assert on_cpu([PREFILL + 10.0, END], 1.0, at0=10.0)


def test_a_slow_token_that_used_the_processor_is_no_pause() -> None:
    # As when something is compiled.
    assert not on_cpu(run(at50=10.0))


def test_a_busy_machine_is_no_pause() -> None:
    # A third of a processor throughout, in a long prefill too.
    assert not on_cpu(run(at0=30.0), 0.33)


def test_a_prefill_of_fewer_threads_is_no_pause() -> None:
    gaps = run(at0=5.0)
    used = [gaps[0], *(8 * gap for gap in gaps[1:])]
    assert not paused(ticks(gaps), ticks(used))


def test_what_is_short_or_a_small_share_is_no_pause() -> None:
    assert on_cpu(run(at50=0.5), 1.0, at50=0.5)
    assert not on_cpu(run(at50=0.2), 1.0, at50=0.2)
    assert not on_cpu(run(1000, at50=0.5), 1.0, at50=0.5)


@pytest.mark.parametrize(
    ("gaps", "seen"),
    [
        (run(at50=10.0), True),
        (run(at100=10.0), True),
        # A prefill has a length of its own.
        (run(at0=10.0), False),
        (run(at50=0.15), False),
        (run(1000, at50=0.5), False),
        # Ten times the others, and no more.
        ([PREFILL, *[0.1] * 9, 1.0], False),
        ([PREFILL, *[0.1] * 9, 1.01], True),
        ([PREFILL, 10.0], False),
    ],
)
def test_on_another_device_one_gap_is_compared_with_the_others(
    gaps: list[float], seen: bool
) -> None:
    assert paused(ticks(gaps)) == seen


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0, 64))
def test_a_run_that_gets_the_same_share_throughout_has_no_pause(
    gaps: list[float], threads: float
) -> None:
    if threads >= 1 or len(gaps) > 1:
        used = [gap * threads for gap in gaps]
        even = paused(ticks(gaps), ticks(used))
        # If there is only one gap, a process that got less than a processor stood still.
        assert not even or threads < 1


def test_a_clock_notes_both_times_from_the_prompt_to_the_end() -> None:
    readings = iter([1.0, 2.0, 3.0, 4.0])
    clock = TokenClock(processor_s=lambda: next(readings))
    for value in ("prompt", "one", "two"):
        clock.put(value)
    clock.end()
    assert clock.used == [1.0, 2.0, 3.0, 4.0]
    assert len(clock.ticks) == 4 and clock.ticks == sorted(clock.ticks)
    assert clock.times(clock.ticks[0]) == tuple(t - clock.ticks[0] for t in clock.ticks[1:3])


def test_without_processor_time_none_is_noted() -> None:
    clock = TokenClock()
    clock.put("prompt")
    clock.end()
    assert (len(clock.ticks), clock.used) == (2, [])


def test_the_time_that_a_machine_slept_never_shrinks() -> None:
    before = suspended_s()
    # Two clocks are read one after the other.
    assert -0.01 < before <= suspended_s() + 0.01
