"""`tiered`: keep recent positions exact and older ones in int8 blocks."""

from __future__ import annotations

from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer, cache_of

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache that keeps at least `recent` positions exact."""
    recent, block = int(call.settings["recent"]), int(call.settings["block"])
    return cache_of(lambda: TieredLayer(recent, block))


class CacheTier:
    """Keys or values: old blocks in int8, each with a scale per head, and the recent positions."""

    def __init__(self, recent: int, block: int) -> None:
        self.limit, self.block = recent, block
        # A block is [batch, kv_heads, block, head_dim], its scale [batch, kv_heads, 1, 1].
        self.old: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.recent: torch.Tensor | None = None

    def append(self, new: torch.Tensor) -> torch.Tensor:
        """Return all positions, then move whole blocks of the oldest ones to int8."""
        recent = new if self.recent is None else torch.cat([self.recent, new], dim=2)
        found = torch.cat([*(code * scale for code, scale in self.old), recent], dim=2)
        while recent.shape[2] >= self.limit + self.block:
            oldest = recent[:, :, : self.block]
            # Scale the largest number of each head to 127. All zeros must not divide by zero.
            scale = oldest.abs().amax(dim=(2, 3), keepdim=True).clamp(min=1e-12) / 127
            self.old.append(((oldest / scale).round().to(torch.int8), scale))
            recent = recent[:, :, self.block :]
        # A copy, so the memory of the moved positions is freed.
        self.recent = recent.clone(memory_format=torch.contiguous_format)
        return found


class TieredLayer(HandLayer):
    """Recent positions exact, distant ones coarse, in a quarter of the bytes."""

    def __init__(self, recent: int, block: int) -> None:
        super().__init__()
        self.cached = {"keys": CacheTier(recent, block), "values": CacheTier(recent, block)}

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return everything, with the old blocks as stored in int8."""
        return self.cached["keys"].append(keys), self.cached["values"].append(values)
