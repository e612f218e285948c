"""Describe in words how time grows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kvbench.analysis.cases import describe, varied
from kvbench.analysis.growth import Growth, break_evens, growths
from kvbench.analysis.summary import CaseSummary
from kvbench.caches import BASELINE
from kvbench.report.units import significant

__all__ = ["growth_sentences"]

_NOTHING = 1e-9


def growth_sentences(cases: Sequence[CaseSummary]) -> list[str]:
    """Return how each strategy grows, the kind of curve, and where the cache starts to pay."""
    found, differing = growths(cases), varied(cases)
    sentences = [_growth(growth, differing) for growth in found]
    if any(growth.first.cache == BASELINE for growth in found):
        sentences.append(
            "Without a cache, time grows polynomially, not exponentially: recomputing all "
            "positions for each token costs n^2 in the linear layers and n^3 in attention."
        )
    for even in break_evens(cases):
        if len(even.cases) < 2:
            # With one length, its place is unknown.
            continue
        first = even.cases[0]
        place = describe(first, differing, length=False)
        if even.new_tokens is None and even.too_few:
            sentences.append(f"Break-even, {place}: unknown; some lengths have too few samples.")
        elif even.new_tokens is None:
            tokens = [case.max_new_tokens for case in even.cases]
            sentences.append(
                f"Break-even, {place}: none within the measured range ({tokens[0]} to {tokens[-1]} "
                "new tokens)."
            )
        else:
            sentences.append(
                f"Break-even, {place}: faster from {even.new_tokens} new tokens on, beyond noise."
            )
    return sentences


def _growth(growth: Growth, differing: Collection[str]) -> str:
    tokens = [case.max_new_tokens for case in growth.cases]
    interval = f"{growth.exponent_low:.2f} to {growth.exponent_high:.2f}"
    return (
        f"{describe(growth.first, differing, length=False)}: time grows as n^{growth.exponent:.2f} "
        f"(95 % CI {interval}) from {growth.fitted_from} to {tokens[-1]} new tokens; t = "
        f"{_polynomial(growth)} s fits {len(tokens)} lengths to {growth.error:.1%}."
    )


def _polynomial(growth: Growth) -> str:
    longest = growth.cases[-1]
    parts = [abs(c) * longest.max_new_tokens**k for k, c in enumerate(growth.coefficients)]
    text = ""
    for power, value in enumerate(growth.coefficients):
        # Zero except for rounding: not visible in the time of the longest length.
        if parts[power] < _NOTHING * max(parts):
            continue
        term = significant(abs(value)) if abs(value) >= 1e-3 else f"{abs(value):.2e}"
        sign = "-" if value < 0 else "+"
        factor = ("", " n", " n^2", " n^3")[power]
        text += f" {sign} {term}{factor}" if text else f"{'-' * (value < 0)}{term}{factor}"
    return text
