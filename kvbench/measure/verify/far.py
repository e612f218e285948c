"""Check a long generation: its last positions, against one forward over all its tokens."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from kvbench.caches import CacheStrategy
from kvbench.measure.verify.attempt import Outcome, attempt
from kvbench.measure.verify.compare import Distance, distance
from kvbench.measure.verify.runs import Work, generate_ids, last_logits
from kvbench.models.prompts import Inputs

__all__ = ["Far", "look_far"]

_POSITIONS = 64
_MOST_BYTES = 256 * 2**20
"""The most bytes of logits to keep: an error in a cache shows in the last positions, which attend
to all before them.
"""

_LEAST_TOKENS = 32
_TRIES = 6


@dataclass(frozen=True)
class Far:
    """A cached generation at its full length, and one forward over the same tokens.

    Attributes:
        work: what was generated; smaller than requested if memory did not suffice.
        along: logits of the last steps through the cache, `[batch, positions, vocabulary]`.
        full: the same from one forward without a cache.
        near: the same from a forward that ends at one of them, `[batch, 1, vocabulary]`.
        at: the index of that position.
    """

    work: Work
    along: torch.Tensor
    full: torch.Tensor
    near: torch.Tensor
    at: int

    @functools.cached_property
    def error(self) -> Distance:
        """The distance of the cached steps from one forward."""
        return distance(self.along, self.full, self.full)

    @functools.cached_property
    def floor(self) -> Distance:
        """The distance of an uncached step from a longer forward: the model's own rounding."""
        full = self.full[:, self.at : self.at + 1]
        return distance(self.near, full, full)


def look_far(work: Work, arm: CacheStrategy) -> Far | Outcome | None:
    """Generate with the cache, and run one forward without it over the result.

    There is no uncached generation, which would cost as much as the slowest sample. If memory does
    not suffice, fewer sequences and tokens are used; None if even a few are too many.
    """
    for smaller in _shrinking(work):
        found = attempt(functools.partial(_look, smaller, arm))
        if not (isinstance(found, Outcome) and found.out_of_memory):
            return found
    return None


def _shrinking(work: Work) -> Iterator[Work]:
    for _ in range(_TRIES):
        yield work
        rows = work.batch_size
        if rows > 1:
            kept = Inputs(
                work.inputs.input_ids[: rows // 2], work.inputs.attention_mask[: rows // 2]
            )
            work = replace(work, inputs=kept)
        elif work.new_tokens > _LEAST_TOKENS:
            work = replace(work, new_tokens=max(work.new_tokens // 2, _LEAST_TOKENS))
        else:
            return


def _look(work: Work, arm: CacheStrategy) -> Far:
    vocabulary = work.loaded.config.get_text_config(decoder=True).vocab_size
    room = _MOST_BYTES // (4 * work.batch_size * vocabulary)
    count = max(min(work.new_tokens, _POSITIONS, room), 2)
    steps: deque[torch.Tensor] = deque(maxlen=count)

    def look(logits: torch.Tensor) -> None:
        steps.append(logits.float().cpu())

    sequences = generate_ids(work, arm, look=look)
    new_ids = sequences[:, work.decoder_prompt :]
    full = last_logits(work, sequences, count)
    # In the middle: near enough to the end, but not the same forward.
    at = count - count // 2 - 1
    cut = new_ids.shape[1] - count + at + 1
    near = last_logits(work, sequences[:, : work.decoder_prompt + cut], 1)
    return Far(work, torch.stack(list(steps), dim=1), full, near, at)
