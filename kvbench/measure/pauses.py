"""Detect pauses: whether a generation stood still for a while, from its own stamps."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence

__all__ = ["LEAST_PAUSE_S", "paused", "suspended_s"]

LEAST_PAUSE_S = 0.25
"""Shorter gaps count as normal spread."""

LEAST_SHARE = 0.1
"""The smallest fraction of the total time that counts as a pause: less moves no median."""

GAP_FACTOR = 10
"""A gap above this many times the median gap is a pause, if nothing better is known."""


def paused(ticks: Sequence[float], used: Sequence[float] = ()) -> bool:
    """Return whether a generation was stopped, suspended, or waiting for a disk.

    If processors of this process do the work, a pause is a gap between two tokens that used less
    processor time than the rest of the run, in the prefill too. Otherwise a pause is a gap far
    longer than the others; the first gap, the prefill, is then ignored.

    Args:
        ticks: seconds on the clock at the prompt, at each new token, and at the end.
        used: processor seconds of this process at the same moments; empty if a separate device does
            the work.
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
    """Return the longest time within a gap in which the process did not run at its usual rate."""
    longest = 0.0
    for gap, busy in zip(gaps, used, strict=True):
        rest = sum(gaps) - gap
        # On a busy machine a process constantly gets less than a whole processor: that is not a
        # pause. Nor is a prefill that uses fewer threads than the steps after it.
        rate = min(1.0, (sum(used) - busy) / rest) if rest > LEAST_PAUSE_S else 1.0
        longest = max(longest, gap - busy / rate if rate > 0 else gap)
    return longest


def _steps(readings: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(readings)]


def suspended_s() -> float:
    """Return how many seconds this machine has slept since it started (Linux).

    The clock of a sample stops during sleep; the device's temperature and clocks do not.
    """
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return 0.0
    return time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)
