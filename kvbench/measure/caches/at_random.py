"""`random`: evict random positions, as the control that any other choice has to beat."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.eviction import EvictingLayer
from kvbench.measure.caches.layer import cache_of

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache whose layers draw from a seed each, so every generation is the same."""
    seeds = itertools.count()
    return cache_of(lambda: RandomLayer(call, next(seeds)))


class RandomLayer(EvictingLayer):
    """Forgets at random. The score does not depend on the keys, so the choice knows nothing."""

    def __init__(self, call: Call, seed: int) -> None:
        super().__init__(call)
        self.draw = torch.Generator().manual_seed(seed)

    def score(self, keys: torch.Tensor) -> torch.Tensor:
        """Return numbers from 0 to 1, one for each head and position, `[batch, kv_heads, new]`."""
        return torch.rand(keys.shape[:3], generator=self.draw).to(keys.device)
