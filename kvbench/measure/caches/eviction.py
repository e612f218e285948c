"""`knorm` and `random`: keep at most a budget of positions and forget the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer

__all__ = ["at_random", "by_key_norm"]

Score = Callable[[torch.Tensor], torch.Tensor]
"""Scores keys: `[batch, kv_heads, new, head_dim]` to `[batch, kv_heads, new]`. Highest is evicted.
"""


def by_key_norm(call: Call) -> dict[str, Any]:
    """Return a cache that forgets the longest keys: keys with much attention tend to be short."""

    def norm(keys: torch.Tensor) -> torch.Tensor:
        norms: torch.Tensor = torch.linalg.vector_norm(keys.float(), dim=3)
        return norms

    return evicting(call, lambda: norm)


def at_random(call: Call) -> dict[str, Any]:
    """Return the control that any other choice has to beat. Each layer draws from its own seed."""
    seeds = itertools.count()

    def drawing() -> Score:
        draw = torch.Generator().manual_seed(next(seeds))
        return lambda keys: torch.rand(keys.shape[:3], generator=draw).to(keys.device)

    return evicting(call, drawing)


def evicting(call: Call, new_score: Callable[[], Score]) -> dict[str, Any]:
    """Return a cache with a budget; it needs the padding at the start of each row."""
    padding = (call.inputs.attention_mask == 0).sum(dim=1)  # [batch]
    budget = int(call.settings["budget"])

    def new_layer() -> EvictingLayer:
        return EvictingLayer(budget, padding, new_score())

    # Transformers calls it for each layer, as it would call a class.
    layer: Any = new_layer
    return {"past_key_values": Cache(layer_class_to_replicate=layer)}


class EvictingLayer(HandLayer):
    """Each head keeps its own choice of positions, in order of time.

    Keys keep the rotation of their original position, and the next position's number counts all
    positions, so distances stay correct. Only the mask needs care: Transformers masks the first
    `padding - forgotten` of the kept positions of a row. That is correct if padding is evicted
    first, so its score is infinite until it is gone.
    """

    def __init__(self, budget: int, padding: torch.Tensor, score: Score) -> None:
        super().__init__()
        self.budget, self.score, self.padding = budget, score, padding
        # [batch, kv_heads, kept, head_dim] twice, and [batch, kv_heads, kept].
        self.kept: tuple[torch.Tensor, ...] = ()

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept and the new positions; evict only then, so that all new ones are seen."""
        numbers = torch.arange(self.seen, self.seen + keys.shape[2], device=keys.device)
        is_padding = numbers < self.padding.to(keys.device)[:, None, None]  # [batch, 1, new]
        new = (keys, values, self.score(keys).masked_fill(is_padding, torch.inf))
        held: tuple[torch.Tensor, ...] = new
        if self.kept:
            held = tuple(torch.cat(pair, dim=2) for pair in zip(self.kept, new, strict=True))
        self.kept = held if held[2].shape[2] <= self.budget else self.choose(*held)
        return held[0], held[1]

    def choose(self, *held: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Select the lowest scores of each head, keeping the order of time."""
        keys, values, scores = held
        # Stable, so the first padding positions are evicted first.
        order = scores.argsort(dim=2, descending=True, stable=True)
        places = order[:, :, -self.budget :].sort(dim=2).values  # [batch, kv_heads, budget]
        wide = places[..., None]
        return (
            keys.gather(2, wide.expand(-1, -1, -1, keys.shape[3])),
            values.gather(2, wide.expand(-1, -1, -1, values.shape[3])),
            scores.gather(2, places),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the kept and the new positions; the first counts as the oldest not forgotten."""
        kept = min(self.seen, self.budget)
        return kept + query_length, self.seen - kept
