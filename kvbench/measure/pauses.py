"""Pauses: whether a generation stood still for a while, read from its own stamps."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence

__all__ = ["LEAST_PAUSE_S", "paused", "suspended_s"]

LEAST_PAUSE_S = 0.25
"""Shorter gaps are left to the spread of the samples."""

LEAST_SHARE = 0.1
"""So much of the whole time a pause is at least: less moves no median."""

GAP_FACTOR = 10
"""A gap is a pause above this many times the median gap, where nothing better is known."""


def paused(ticks: Sequence[float], used: Sequence[float] = ()) -> bool:
    """Return whether a generation stood still: stopped, suspended, or waiting for a disk.

    Where the work is done by processors of this process, a gap between two tokens that used less
    processor time than the rest of the run did is a pause, in the prefill too. Elsewhere one gap
    far longer than the others is; the first, which is the prefill, then tells nothing.

    Args:
        ticks: seconds on the clock at the prompt, at each new token, and at the end.
        used: processor seconds of this process at the same moments; empty on a device of its own.
    """
    gaps = _steps(ticks)
    if used:
        still = _unused(gaps, _steps(used))
    else:
        gaps = gaps[1:]
        if len(gaps) < 2:
            return False
        still = max(gaps)
        if still <= GAP_FACTOR * statistics.median(gaps):
            return False
    return still > LEAST_PAUSE_S and still > LEAST_SHARE * (ticks[-1] - ticks[0])


def _unused(gaps: Sequence[float], used: Sequence[float]) -> float:
    """The longest time within a gap in which the process did not run as it does otherwise."""
    longest = 0.0
    for gap, busy in zip(gaps, used, strict=True):
        rest = sum(gaps) - gap
        # On a busy machine a process gets less than a whole processor all the time: that is no
        # pause. Nor is a prefill one that uses fewer threads than the steps after it.
        rate = min(1.0, (sum(used) - busy) / rest) if rest > LEAST_PAUSE_S else 1.0
        longest = max(longest, gap - busy / rate if rate > 0 else gap)
    return longest


def _steps(readings: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(readings)]


def suspended_s() -> float:
    """Return for how long this machine has slept since it started, in seconds (Linux).

    The clock of a sample stands still meanwhile; the device's temperature and clocks do not.
    """
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return 0.0
    return time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)
