"""`concat`: a list of tensors per layer, joined at every read."""

from __future__ import annotations

from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer, cache_of

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache that keeps the output of each forward as a separate piece."""
    return cache_of(ConcatLayer)


class ConcatLayer(HandLayer):
    """The first cache that anyone writes. What is stored is never moved.

    The cost comes on reading: attention needs one tensor, so every step copies all positions into a
    new one and drops it afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        # The prompt's piece is [batch, kv_heads, prompt, head_dim]; each later piece has 1
        # position.
        self.key_pieces: list[torch.Tensor] = []
        self.value_pieces: list[torch.Tensor] = []

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append a piece to each list, and return the pieces joined."""
        # Copy, since some models pass a slice of a tensor that also holds the queries.
        self.key_pieces.append(keys.clone())
        self.value_pieces.append(values.clone())
        # [batch, kv_heads, all, head_dim]
        return torch.cat(self.key_pieces, dim=2), torch.cat(self.value_pieces, dim=2)
