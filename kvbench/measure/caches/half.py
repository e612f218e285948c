"""`half`: keys and values in 16 bits under weights in float32."""

from __future__ import annotations

from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer, cache_of

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache in float16 or bfloat16."""
    dtype = getattr(torch, str(call.settings["dtype"]))
    return cache_of(lambda: HalfLayer(dtype))


class HalfLayer(HandLayer):
    """Half the bytes. Attention still computes in float32, so each step converts all positions.

    float16 has 11 significant bits and overflows at 65,504; bfloat16 has 8 and float32's range.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        # [batch, kv_heads, positions, head_dim] in 16 bits.
        self.half_keys: torch.Tensor | None = None
        self.half_values: torch.Tensor | None = None

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Round the new positions, and return everything as rounded."""
        self.half_keys = self.joined(self.half_keys, keys)
        self.half_values = self.joined(self.half_values, values)
        # The first step also sees rounded keys: the error must not depend on how a prompt is split.
        return self.half_keys.to(keys.dtype), self.half_values.to(values.dtype)

    def joined(self, kept: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """Return the kept positions followed by the new ones, in 16 bits."""
        rounded = new.to(self.dtype)
        return rounded if kept is None else torch.cat([kept, rounded], dim=2)
