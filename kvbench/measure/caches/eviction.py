"""What `knorm` and `random` share: keep a budget of positions, and evict the highest scores."""

from __future__ import annotations

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer

__all__ = ["EvictingLayer"]


class EvictingLayer(HandLayer):
    """Each head keeps its own choice of positions, in order of time. A strategy adds `score`.

    Keys keep the rotation of their original position, and the next position's number counts all
    positions, so distances stay correct. Only the mask needs care: Transformers masks the first
    `padding - forgotten` of the kept positions of a row. That is correct if padding is evicted
    first, so its score is infinite until it is gone.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.budget = int(call.settings["budget"])
        self.padding = (call.inputs.attention_mask == 0).sum(dim=1)  # [batch]
        # [batch, kv_heads, kept, head_dim] twice, and the scores, [batch, kv_heads, kept].
        self.kept: tuple[torch.Tensor, ...] = ()

    def score(self, keys: torch.Tensor) -> torch.Tensor:
        """Return a score of each new position and head, `[batch, kv_heads, new]`."""
        raise NotImplementedError

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept and the new positions; evict only then, so that all new ones are seen."""
        numbers = torch.arange(self.seen, self.seen + keys.shape[2], device=keys.device)
        is_padding = numbers < self.padding[:, None, None]  # [batch, 1, new]
        scores = self.score(keys).masked_fill(is_padding, torch.inf)
        held: tuple[torch.Tensor, ...] = (keys, values, scores)
        if self.kept:
            held = tuple(torch.cat(pair, dim=2) for pair in zip(self.kept, held, strict=True))
        self.kept = held if held[2].shape[2] <= self.budget else self.lowest(*held)
        return held[0], held[1]

    def lowest(self, *held: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return a budget of each head's lowest scores, in order of time."""
        # Stable, so the first padding positions are evicted first.
        order = held[2].argsort(dim=2, descending=True, stable=True)
        places = order[:, :, -self.budget :].sort(dim=2).values  # [batch, kv_heads, budget]
        keys, values = (one.take_along_dim(places[..., None], dim=2) for one in held[:2])
        return keys, values, held[2].gather(2, places)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the kept and the new positions; the first counts as the oldest not forgotten."""
        kept = min(self.seen, self.budget)
        return kept + query_length, self.seen - kept
