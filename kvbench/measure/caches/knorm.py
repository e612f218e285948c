"""`knorm`: evict the keys with the largest norms."""

from __future__ import annotations

from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.eviction import EvictingLayer
from kvbench.measure.caches.layer import cache_of

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache that keeps the shortest keys of each head, and their values."""
    return cache_of(lambda: KNormLayer(call))


class KNormLayer(EvictingLayer):
    """Forgets the longest keys: keys that get much attention tend to be short.

    The score depends on a key alone, so it is computed once and kept next to the key. Nothing has
    to be known about queries or attention weights, which fused kernels do not return.
    """

    def score(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the norms of keys, `[batch, kv_heads, new, head_dim]`, without the last axis."""
        norms: torch.Tensor = torch.linalg.vector_norm(keys.float(), dim=3)
        return norms
