"""Decide how far a sweep verifies a strategy: at its largest case, unless that costs too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvbench.analysis.generated import generations_of, rough_prompt_tokens
from kvbench.caches import BASELINE, strategy
from kvbench.plan.case import Case

__all__ = ["reach_of"]

_PASS = 16
"""The overhead of one pass through the model, in tokens: the weights are read each time. The order
of magnitude is enough here.
"""

_FORWARDS = 2
"""Passes over all tokens without a cache: the reference, and one for the model's own rounding."""

_ALWAYS = 32
"""New tokens that are checked in any case, in batch 1; see kvbench/measure/verify/checks.py."""


def reach_of(cases: Sequence[Case], cache: str, repeats: int) -> Case | None:
    """Return the case to verify a strategy at: the largest one of a model, or a smaller one.

    Verification costs a cached generation and passes over all of its tokens. If that exceeds the
    planned samples of the strategy and its baseline, the length is halved, then the batch.

    Args:
        cases: the cases of one model.
        cache: the strategy.
        repeats: the least number of samples of each case.

    Returns: None if that is no more than what is checked in any case.
    """
    own = [case for case in cases if case.cache == cache]
    # Another shape would have to be compiled.
    if not own or strategy(cache).compiles:
        return None
    compared = (case for case in cases if case.cache in (cache, BASELINE))
    samples = sum(_cost(one) for made in generations_of(compared).values() for one in made)
    far = max(own, key=_size)
    while _cost(far) + _reference(far) > repeats * samples:
        if far.max_new_tokens <= _ALWAYS and far.batch_size == 1:
            break
        if far.max_new_tokens > _ALWAYS:
            far = replace(far, max_new_tokens=max(far.max_new_tokens // 2, _ALWAYS))
        else:
            far = replace(far, batch_size=far.batch_size // 2)
    covered = far.batch_size == 1 and far.max_new_tokens <= _ALWAYS
    return None if covered or far.max_new_tokens < 2 else far


def _size(case: Case) -> tuple[int, int, int]:
    return case.max_new_tokens, case.batch_size, rough_prompt_tokens(case)


def _cost(case: Case) -> int:
    """Return the cost of a generation, in tokens through the model."""
    prompt, steps = rough_prompt_tokens(case), case.max_new_tokens
    if strategy(case.cache).use_cache:
        return case.batch_size * (prompt + steps) + _PASS * steps
    return case.batch_size * (prompt * steps + steps * steps // 2) + _PASS * steps


def _reference(case: Case) -> int:
    tokens = case.batch_size * (rough_prompt_tokens(case) + case.max_new_tokens)
    return _FORWARDS * (tokens + _PASS)
