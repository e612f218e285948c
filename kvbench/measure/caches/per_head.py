"""`per-head`: one cache per head, in a Python list."""

from __future__ import annotations

from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer, cache_of

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache that has a tensor for each head."""
    return cache_of(PerHeadLayer)


class PerHeadLayer(HandLayer):
    """The cache as attention is often explained: each head is a small object with its own cache.

    Kernels need all heads in one tensor. So each step copies everything twice, to grow each head
    and to stack them, and launches `2 * kv_heads + 2` kernels where one large kernel would do.
    """

    def __init__(self) -> None:
        super().__init__()
        # For each head [batch, positions, head_dim].
        self.head_keys: list[torch.Tensor] = []
        self.head_values: list[torch.Tensor] = []

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Grow each head by its new positions, and return the heads stacked."""
        self.head_keys = grow(self.head_keys, keys)
        self.head_values = grow(self.head_values, values)
        # [batch, kv_heads, all, head_dim]
        return torch.stack(self.head_keys, dim=1), torch.stack(self.head_values, dim=1)


def grow(heads: list[torch.Tensor], new: torch.Tensor) -> list[torch.Tensor]:
    """Return each head extended by its part of `new`, `[batch, kv_heads, new, head_dim]`."""
    parts = new.unbind(dim=1)
    if not heads:
        return [part.clone() for part in parts]
    return [torch.cat([head, part], dim=1) for head, part in zip(heads, parts, strict=True)]
