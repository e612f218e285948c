"""Decide what the samples allow to be claimed about a speedup and about energy."""

from __future__ import annotations

from typing import Literal

from kvbench.analysis.summary import CaseSummary
from kvbench.records.finding import VERIFY_FAILED

__all__ = [
    "MOST_DISAGREEMENT",
    "Claim",
    "EnergyClaim",
    "claim",
    "claim_of",
    "does_other_work",
    "energy_claim",
]

Claim = Literal["faster", "slower", "unclear", "disagree", "too_few", "other_work"]
EnergyClaim = Literal["less", "more", "unclear", "disagree", "too_few", "other_work"]

MOST_DISAGREEMENT = 1.5
"""No claim is made where the upper end of the interval is more than this many times the lower end.
"""


def claim(case: CaseSummary) -> Claim | None:
    """Return what can be claimed about a case's speedup; None for a case without one.

    other_work: verification found different output than without a cache; the times do not matter.
    too_few: no interval, because there are too few shared rounds. disagree: the rounds differ so
    much that the interval is not informative. unclear: the interval holds 1. faster or slower: it
    does not.
    """
    if case.speedup is None:
        return None
    if does_other_work(case):
        return "other_work"
    return claim_of(case.speedup_ci95_low, case.speedup_ci95_high)


def claim_of(low: float | None, high: float | None) -> Claim:
    """Return what an interval of ratios of times allows to be claimed, by the same rules."""
    side = _side(low, high)
    return "faster" if side == "above" else "slower" if side == "below" else side


def energy_claim(case: CaseSummary) -> EnergyClaim | None:
    """Return what can be claimed about a case's energy per token, by the same rules.

    None where the energy of the case or of its baseline was not measured.
    """
    if case.energy_ratio is None:
        return None
    if does_other_work(case):
        return "other_work"
    side = _side(case.energy_ratio_ci95_low, case.energy_ratio_ci95_high)
    return "less" if side == "above" else "more" if side == "below" else side


def does_other_work(case: CaseSummary) -> bool:
    """Return whether verification found that a strategy's output differs from no cache."""
    return any(flag.startswith(f"{VERIFY_FAILED}:") for flag in (case.flags or "").split())


def _side(
    low: float | None, high: float | None
) -> Literal["above", "below", "unclear", "disagree", "too_few"]:
    """Return on which side of 1 an interval of ratios lies, or why it carries no claim."""
    if low is None or high is None:
        return "too_few"
    if high > MOST_DISAGREEMENT * low:
        return "disagree"
    if low <= 1 <= high:
        return "unclear"
    return "above" if low > 1 else "below"
