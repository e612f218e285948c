"""Warm-ups: how long one is, and which cases it covers.

Sixteen tokens are enough on a CPU and in float32. On a Hopper GPU in half precision, the first pass
over each new key length is three to five times slower, so a warm-up must reach every length that
will be timed; see docs/measuring.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from kvbench.analysis.generated import is_sampled
from kvbench.caches import strategy
from kvbench.device_kinds import needs_full_warmup
from kvbench.plan.case import Case

__all__ = ["SHORT_TOKENS", "Scope", "covered", "longest", "scope_of", "warmup_tokens"]

SHORT_TOKENS = 16
"""New tokens of a short warm-up."""

Scope = Literal["short", "shape", "length"]
"""`short`: each case, a few tokens. `shape`: once, at full length, for all cases that differ only
in the number of new tokens. `length`: each case, at its full length.
"""


def scope_of(case: Case, warmup: str) -> Scope:
    """Return how a case is warmed up under the plan's `warmup`: auto, full or a number."""
    if strategy(case.cache).warmup == "full" and warmup in ("auto", "full"):
        return "length"
    if is_sampled(case):
        return "short"
    slow = warmup == "auto" and needs_full_warmup(case.device, case.dtype)
    return "shape" if warmup == "full" or slow else "short"


def warmup_tokens(case: Case, warmup: str) -> int:
    """Return the new tokens of the warm-up that runs for this case."""
    if scope_of(case, warmup) != "short":
        return case.max_new_tokens
    return min(int(warmup) if warmup.isdecimal() else SHORT_TOKENS, case.max_new_tokens)


def covered(case: Case, others: Iterable[Case], warmup: str) -> tuple[Case, ...]:
    """Return those of `others` that are warm once this case is, including the case itself."""
    if scope_of(case, warmup) != "shape":
        return (case,)
    return tuple(
        other
        for other in others
        if _shape(other) == _shape(case) and other.max_new_tokens <= case.max_new_tokens
    )


def longest(case: Case, others: Sequence[Case], warmup: str) -> Case:
    """Return the case whose warm-up makes this one warm: itself, or a longer one."""
    if scope_of(case, warmup) != "shape":
        return case
    alike = [other for other in others if _shape(other) == _shape(case)]
    return max([case, *alike], key=lambda other: other.max_new_tokens)


def _shape(case: Case) -> Case:
    """Return what cases share that differ only in the number of new tokens."""
    return replace(case, max_new_tokens=1)
