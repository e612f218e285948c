"""What the samples of a pair allow to be said of its speed-up."""

from __future__ import annotations

from typing import Literal

from kvbench.analysis.summary import CaseSummary

__all__ = ["MOST_DISAGREEMENT", "Claim", "claim"]

Claim = Literal["faster", "slower", "unclear", "disagree", "too_few", "other_work"]

_VERIFY_FAILED = "verify_failed"

MOST_DISAGREEMENT = 1.5
"""Where the upper end of the interval is over this many times the lower one, nothing is claimed."""


def claim(case: CaseSummary) -> Claim | None:
    """Return what can be claimed of a case's speed-up; None for a case without one.

    other_work: the strategy was found to do other work than no cache, whatever its times are.
    too_few: no interval, for want of shared rounds. disagree: the rounds differ so much that the
    interval says little. unclear: the interval holds 1. faster or slower: it does not.
    """
    if case.speedup is None:
        return None
    if any(flag.startswith(f"{_VERIFY_FAILED}:") for flag in (case.flags or "").split()):
        return "other_work"
    low, high = case.speedup_ci95_low, case.speedup_ci95_high
    if low is None or high is None:
        return "too_few"
    if high > MOST_DISAGREEMENT * low:
        return "disagree"
    if low <= 1 <= high:
        return "unclear"
    return "faster" if low > 1 else "slower"
