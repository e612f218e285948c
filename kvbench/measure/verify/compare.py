"""Compare two runs: where their tokens diverge, and the distance of their logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kvbench.measure.verify.runs import Run

__all__ = [
    "UNKNOWN",
    "Distance",
    "Parting",
    "agreement",
    "distance",
    "parting_at",
    "partings",
]

_MASKED = 1e30
"""Models that exclude tokens give them the lowest number of the dtype: not a real logit."""


@dataclass(frozen=True)
class Distance:
    """The difference of two sets of logits over their standard deviation; infinite for NaN."""

    rms: float
    max: float


UNKNOWN = Distance(math.nan, math.nan)
"""The distance when there is nothing to compare."""


@dataclass(frozen=True)
class Parting:
    """The first difference in the tokens of one sequence.

    Attributes:
        row: the sequence in the batch, from 0.
        at: the new token, from 1.
        token_off: without the cache.
        token_cached: with the cache.
        margin: between the logits of these two tokens, without the cache.
        margin_over_std: the same over the standard deviation of the logits there.
    """

    row: int
    at: int
    token_off: int
    token_cached: int
    margin: float
    margin_over_std: float


def agreement(off: Run, cached: Run) -> float:
    """Return the fraction of equal tokens."""
    return float((off.new_ids == cached.new_ids).double().mean())


def partings(off: Run, cached: Run) -> list[Parting]:
    """Return where each diverging sequence does so, earliest first."""
    found = []
    for row, (left, right) in enumerate(
        zip(off.new_ids.tolist(), cached.new_ids.tolist(), strict=True)
    ):
        pairs = enumerate(zip(left, right, strict=True))
        step = next((step for step, (one, other) in pairs if one != other), None)
        if step is not None:
            found.append(parting_at(off.logits[row, step], row, step, left[step], right[step]))
    return sorted(found, key=lambda parting: (parting.at, parting.row))


def distance(one: torch.Tensor, other: torch.Tensor, reference: torch.Tensor) -> Distance:
    """Return the distance of `one` from `other`, in standard deviations of `reference`.

    The standard deviation is taken over the vocabulary at each position, and its root mean square
    over the positions: shifting logits by a constant does not change their meaning.

    Args:
        one: logits, `[batch, steps, vocabulary]`.
        other: the same.
        reference: the same; often `other`.
    """
    usable = _usable(reference)
    same = torch.equal(_usable(one), usable) and torch.equal(_usable(other), usable)
    if not same or not usable.any():
        return Distance(math.inf, math.inf)
    std = _std(reference, usable)
    difference = torch.where(usable, one - other, 0.0)
    square = torch.linalg.vector_norm(difference, dtype=torch.float64) ** 2 / usable.sum()
    return Distance(float(square.sqrt()) / std, float(difference.abs().max()) / std)


def parting_at(logits: torch.Tensor, row: int, step: int, off: int, cached: int) -> Parting:
    """Return the details of a divergence from the uncached logits there, `[vocabulary]`."""
    # Not between the two highest: a token from far down is not a tie, however close the second one
    # is.
    margin = float(logits[off] - logits[cached])
    return Parting(row, step + 1, off, cached, margin, margin / _std(logits, _usable(logits)))


def _usable(logits: torch.Tensor) -> torch.Tensor:
    # False for NaN and for the infinities too.
    return logits.abs() < _MASKED


def _std(logits: torch.Tensor, usable: torch.Tensor) -> float:
    count = usable.sum(-1).clamp(min=1)
    known = torch.where(usable, logits, 0.0).double()
    mean = known.sum(-1) / count
    spread = torch.where(usable, known - mean[..., None], 0.0).square().sum(-1) / count
    # Logits that are all equal must not divide by zero.
    return max(float(spread.mean().sqrt()), torch.finfo(torch.float32).tiny)
