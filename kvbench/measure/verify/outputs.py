"""Find where cached generation has other tokens than uncached, and compare the logits there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kvbench.caches import BASELINE, CacheStrategy, strategy
from kvbench.measure.verify.compare import UNKNOWN, Distance, Parting, distance, parting_at
from kvbench.measure.verify.runs import Work, forced_logits, generate_ids, last_logits

__all__ = ["Divergence", "Outputs", "compare_outputs"]

_MOST_STEPS = 8
"""Sequences may diverge at as many different steps; each costs a forward over all tokens before it.
"""


@dataclass(frozen=True)
class Divergence:
    """A step at which sequences diverge.

    Attributes:
        partings: the divergences of the sequences.
        error: the distance of the cached step from an uncached one over the same tokens, all
            sequences.
        floor: the distance of one forward from another over one more token: the model's own
            rounding.
    """

    partings: tuple[Parting, ...]
    error: Distance
    floor: Distance


@dataclass(frozen=True)
class Outputs:
    """Both generations of a case: the fraction of equal tokens, and where sequences diverge."""

    agreement: float
    divergences: tuple[Divergence, ...]


def compare_outputs(work: Work, arm: CacheStrategy) -> Outputs:
    """Generate with and without the cache, and check each step where a sequence first differs.

    Up to there its tokens are the same in both, so any difference comes from the cache or the loop:
    the generation without a cache always uses `generate`.
    """
    off = generate_ids(replace(work, driver="generate"), strategy(BASELINE))
    cached = generate_ids(work, arm)
    differ = (off != cached)[:, work.decoder_prompt :]
    rows = differ.any(1).nonzero().flatten().tolist()
    # argmax returns the first of equal numbers.
    first = {row: int(differ[row].int().argmax()) for row in rows}
    steps = sorted(set(first.values()))[:_MOST_STEPS]
    divergences = []
    if steps:
        ids = off[:, work.decoder_prompt : work.decoder_prompt + steps[-1] + 1]
        along = forced_logits(work, arm, ids, steps)
    for step in steps:
        parted = [row for row in rows if first[row] == step]
        divergences.append(_diverged(work, off, cached, step, parted, along[step]))
    return Outputs(1 - float(differ.double().mean()), tuple(divergences))


def _diverged(
    work: Work,
    off: torch.Tensor,
    cached: torch.Tensor,
    step: int,
    rows: list[int],
    along: torch.Tensor,
) -> Divergence:
    end = work.decoder_prompt + step + 1
    # The step itself and, if there is one, the step before it: a separate forward there shows how
    # the model rounds.
    full = last_logits(work, off[:, :end], min(step + 1, 2))
    floor = UNKNOWN
    if step:
        before = full[:, :1]
        floor = distance(last_logits(work, off[:, : end - 1], 1), before, before)
    uncached = full[:, -1:]
    return Divergence(
        tuple(
            parting_at(
                uncached[row, 0], row, step, int(off[row, end - 1]), int(cached[row, end - 1])
            )
            for row in rows
        ),
        distance(along, uncached, uncached),
        floor,
    )
