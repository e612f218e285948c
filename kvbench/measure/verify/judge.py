"""The verdicts: compare the observations with limits, each with its reason."""

from __future__ import annotations

import math
from typing import Any

import torch

from kvbench.caches import CacheStrategy
from kvbench.measure.verify.arms import Arms, Exact
from kvbench.measure.verify.attempt import Outcome
from kvbench.measure.verify.check_shapes import (
    contradicts_itself,
    describe_shapes,
    saw_what_was_handed_over,
    wrong_shape,
)
from kvbench.measure.verify.compare import Distance, Parting, agreement, distance, partings
from kvbench.measure.verify.far import Far
from kvbench.measure.verify.leak import Leak
from kvbench.measure.verify.outputs import Divergence, Outputs
from kvbench.measure.verify.runs import Work
from kvbench.records.check import Verdict

__all__ = [
    "judge_leak",
    "judge_logits",
    "judge_output",
    "judge_shape",
    "judge_timed_logits",
    "judge_tokens",
    "rounding_of",
]

RMS_LIMIT = 1e-4
MAX_LIMIT = 1e-3
"""Measured in float32: healthy 1e-6 to 4e-6, one key/value slot zeroed in one layer 2e-3 to 2e-2.
"""

FLOOR_FACTOR = 10
"""A model may round more coarsely than most: its own rounding, times this, is allowed too."""

SMALLEST_FAULT = 2e-3
"""There is no verdict if the model's own rounding would let pass what a wrong cache does."""

TIMED_FACTOR = 2
"""In a coarser dtype each generation differs from float32 by about as much, in independent
directions.
"""

NEAR_TIE = MAX_LIMIT
"""What the limit on single logits allows may decide between two of them."""

NEAR_TIE_ROUNDINGS = 6
"""A margin has two logits and there are two generations, so four roundings enter the difference of
the margins: twice the RMS of one, and six is three standard deviations of that.
"""


def judge_tokens(arms: Arms, dtype: str, lossy: bool, rounding: float) -> Outcome:
    """Judge whether greedy tokens are equal, and if not, whether rounding explains it.

    Sequences are generated independently, so each may diverge once. The reported divergence is the
    first that is not a near-tie, else the first.

    Args:
        arms: both generations.
        dtype: their dtype.
        lossy: whether the strategy may change tokens.
        rounding: RMS of what rounding does to a logit in this dtype, over the standard deviation.
    """
    fields: dict[str, Any] = {"agreement": agreement(arms.off, arms.cached)}
    found = partings(arms.off, arms.cached)
    if not found:
        tokens = arms.off.new_ids.flatten().tolist()
        detail = f"All {len(tokens)} tokens match, {len(set(tokens))} distinct."
        return Outcome("exempt" if lossy else "pass", detail, fields)
    limit = max(NEAR_TIE, NEAR_TIE_ROUNDINGS * rounding if math.isfinite(rounding) else 0.0)
    clear = [parting for parting in found if not parting.margin_over_std <= limit]
    parting = (clear or found)[0]
    fields |= _parted(parting)
    verdict, why = _why_parted(bool(clear), dtype, lossy, limit)
    # NaN, if there is no forward to compare with, does not count as small either.
    if dtype == "float32" and verdict != "exempt" and not arms.floor.rms <= SMALLEST_FAULT:
        verdict, why = "inconclusive", _no_floor(arms)
    return Outcome(verdict, f"{_told(parting)}: {why}.", fields)


def judge_logits(arms: Arms | Far, lossy: bool) -> Outcome:
    """Judge, in float32, the cached steps against one forward over the same tokens."""
    for logits in (arms.full, arms.along):
        if isinstance(logits, Outcome):
            return logits
    error, floor = arms.error, arms.floor
    finite = math.isfinite(floor.rms)
    rms_limit = _rms_limit(floor)
    max_limit = max(MAX_LIMIT, FLOOR_FACTOR * floor.max) if finite else MAX_LIMIT
    fields = _distances(error, floor) | {"rms_limit": rms_limit, "max_limit": max_limit}
    detail = f"{_differ(error)}; {_number(rms_limit)} and {_number(max_limit)} allowed"
    if lossy:
        return Outcome("exempt", f"{detail}, and the strategy is lossy.", fields)
    if not finite:
        return Outcome("inconclusive", f"{_differ(error)}; {_no_floor(arms)}.", fields)
    if error.rms > rms_limit or error.max > max_limit:
        return Outcome("fail", f"{detail}.", fields)
    if error.rms > SMALLEST_FAULT:
        return Outcome("inconclusive", f"{_differ(error)}; {_no_floor(arms)}.", fields)
    return Outcome("pass", f"{detail}.", fields)


def judge_output(outputs: Outputs) -> Outcome:
    """Judge whether rounding explains each place where a sequence diverges, in float32.

    The reported place is the first that rounding does not explain, else the first one.
    """
    fields: dict[str, Any] = {"agreement": outputs.agreement}
    if not outputs.divergences:
        detail = (
            "The samples differ from the no-cache tokens, but the difference did not reproduce."
        )
        return Outcome("inconclusive", detail, fields)
    judged = [(_verdict_at(one), one) for one in outputs.divergences]
    verdict, one = min(judged, key=lambda pair: _OUTPUT_WORST_FIRST.index(pair[0]))
    parting = max(one.partings, key=lambda parting: parting.margin_over_std)
    fields |= _parted(parting) | _distances(one.error, one.floor)
    fields["rms_limit"] = _rms_limit(one.floor)
    detail = (
        f"The samples differ from the no-cache tokens: {_told(parting)}, and the cached step "
        f"differs from the uncached one by {_number(one.error.rms)} (RMS)"
    )
    why = {
        "fail": "rounding does not explain it",
        "near_tie": "a tie within rounding",
        "inconclusive": "the model's own rounding would hide a wrong cache",
    }
    return Outcome(verdict, f"{detail}: {why[verdict]}.", fields)


_OUTPUT_WORST_FIRST: tuple[Verdict, ...] = ("fail", "inconclusive", "near_tie")


def _verdict_at(one: Divergence) -> Verdict:
    # Infinite if the model gives no numbers without a cache either.
    if one.floor.rms > SMALLEST_FAULT:
        return "inconclusive"
    # The prefill has no earlier step to measure rounding with; nothing is cached yet either.
    rounding = NEAR_TIE_ROUNDINGS * one.floor.rms if math.isfinite(one.floor.rms) else 0.0
    ties = all(it.margin_over_std <= max(NEAR_TIE, rounding) for it in one.partings)
    return "near_tie" if ties and one.error.rms <= _rms_limit(one.floor) else "fail"


def _rms_limit(floor: Distance) -> float:
    return max(RMS_LIMIT, FLOOR_FACTOR * floor.rms) if math.isfinite(floor.rms) else RMS_LIMIT


def judge_timed_logits(timed: Arms, exact: Exact, lossy: bool) -> Outcome:
    """Judge the timed dtype loosely, against its own distance from float32."""
    if exact.full_of_timed is None:
        raise ValueError("no float32 forward pass over the tokens of the timed dtype")
    # One measure for all of it, so that the two sides of the limit can be compared.
    for logits in (timed.full, timed.along, exact.full_of_timed):
        if isinstance(logits, Outcome):
            return logits
    assert isinstance(timed.full, torch.Tensor) and isinstance(timed.along, torch.Tensor)
    assert isinstance(exact.full_of_timed, torch.Tensor)
    reference = exact.full_of_timed
    error = distance(timed.along, timed.full, reference)
    floor = distance(timed.off.logits, timed.full, reference)
    limit = TIMED_FACTOR * rounding_of(timed, exact)
    fields = _distances(error, floor) | {"rms_limit": _finite(limit)}
    detail = f"{_differ(error)}; RMS of {_number(limit)} allowed, {TIMED_FACTOR} x the dtype's own"
    if lossy:
        return Outcome("exempt", f"{detail}, and the strategy is lossy.", fields)
    if not math.isfinite(floor.rms):
        why = "uncached steps are no better, which would hide a wrong cache"
        return Outcome("inconclusive", f"{_differ(error)}; {why}.", fields)
    # NaN in either must not pass.
    passed = math.isfinite(limit) and error.rms <= limit
    return Outcome("pass" if passed else "fail", f"{detail}.", fields)


def rounding_of(timed: Arms, exact: Exact | Outcome) -> float:
    """Return the RMS of the rounding of a logit in the timed dtype, over the standard deviation.

    In a coarse dtype it is the distance of one forward from the same in float32. In float32, or
    without such a forward, it is the model's own rounding, which is smaller: rounding that both
    computations share does not show in it. NaN if there is no forward at all.
    """
    if isinstance(exact, Outcome) or not isinstance(exact.full_of_timed, torch.Tensor):
        return timed.floor.rms
    if isinstance(timed.full, Outcome):
        return math.nan
    return distance(timed.full, exact.full_of_timed, exact.full_of_timed).rms


def judge_shape(work: Work, arm: CacheStrategy, arms: Arms) -> Outcome:
    """Judge whether the cache grew as it should, layer by layer and step by step."""
    if not arms.shapes:
        why = "the model has none or does not return it"
        return Outcome("inconclusive", f"No forward pass returned a cache: {why}.")
    unreadable = next((shape.unreadable for shape in arms.shapes if shape.unreadable), None)
    if unreadable is not None:
        return Outcome("inconclusive", f"kvbench cannot read the layers of a {unreadable}.")
    if len(arms.shapes) != work.new_tokens:
        detail = (
            f"{len(arms.shapes)} forward passes returned a cache for {work.new_tokens} new tokens"
        )
        return Outcome("inconclusive", f"{detail}, so steps and caches cannot be matched.")
    wrong = wrong_shape(work, arm, arms.shapes)
    if wrong is not None:
        if contradicts_itself(work, arm, arms.shapes):
            return Outcome("fail", f"{_sentence(wrong)}.")
        why = "but the configuration does not describe what the model caches"
        if not saw_what_was_handed_over(arms.shapes):
            why = "and what the model passes to the cache is not visible"
        return Outcome("inconclusive", f"{_sentence(wrong)}; {why}.")
    return Outcome("pass", f"{_sentence(describe_shapes(work, arms.shapes))}.")


def judge_leak(leak: Leak, generations: int) -> Outcome:
    """Judge whether generations left anything behind."""
    fields = {"generations": generations, "leaked_bytes": leak.leaked_bytes}
    if not leak.found:
        detail = f"All {leak.made} caches were freed after {generations} generations."
        if leak.kept:
            detail = (
                f"One cache object is reused by all {generations} generations; everything else "
                "was freed."
            )
        if leak.state_bytes:
            detail += (
                f" {_bytes(leak.state_bytes)} of state stay on the model's modules until the next "
                "generation replaces them."
            )
        return Outcome("pass", detail, fields)
    size = _bytes(leak.leaked_bytes)
    if leak.kept:
        detail = f"{leak.kept} of {leak.made} cache objects are still referenced, {size}."
    else:
        detail = f"All cache objects were freed, but {leak.where} grew by {size}."
    return Outcome("fail", detail, fields)


def _why_parted(clear: bool, dtype: str, lossy: bool, limit: float) -> tuple[Verdict, str]:
    if lossy:
        return "exempt", "the strategy is lossy"
    if not clear:
        return "near_tie", f"a tie within rounding (up to {_number(limit)})"
    if dtype == "float32":
        return "fail", f"rounding explains only up to {_number(limit)}"
    # Many roundings add up in a coarse dtype, and nobody knows how far: the logits judge.
    return "exempt", f"more than {_number(limit)}, but tokens in {dtype} do not decide the verdict"


def _no_floor(arms: Arms | Far) -> str:
    if isinstance(arms.full, Outcome):
        return f"the rounding level of this model is unknown ({arms.full.detail.rstrip('.')})"
    if not math.isfinite(arms.floor.rms):
        return "uncached steps are no better, which would hide a wrong cache"
    return (
        f"uncached steps also differ from one forward pass, by {_number(arms.floor.rms)} (RMS), "
        "which would hide a wrong cache"
    )


def _told(parting: Parting) -> str:
    return (
        f"Sequence {parting.row} diverges at new token {parting.at} ({parting.token_off}, with the "
        f"cache {parting.token_cached}), where their logits are {_number(parting.margin_over_std)} "
        "standard deviations apart"
    )


def _parted(parting: Parting) -> dict[str, Any]:
    return {
        "parted_row": parting.row,
        "parted_at": parting.at,
        "token_off": parting.token_off,
        "token_cached": parting.token_cached,
        "margin": _finite(parting.margin),
        "margin_over_std": _finite(parting.margin_over_std),
    }


def _differ(error: Distance) -> str:
    if not math.isfinite(error.rms):
        return "Logits are not finite, or the cached steps mask out other tokens"
    return (
        f"Cached steps differ from one forward pass by {_number(error.rms)} standard deviations "
        f"(RMS), {_number(error.max)} at most"
    )


def _distances(error: Distance, floor: Distance) -> dict[str, Any]:
    return {
        "rms_over_std": _finite(error.rms),
        "max_over_std": _finite(error.max),
        "floor_rms_over_std": _finite(floor.rms),
        "floor_max_over_std": _finite(floor.max),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _number(number: float) -> str:
    return f"{number:.1e}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
