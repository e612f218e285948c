"""`prealloc`: one buffer per layer that doubles when it is full."""

from __future__ import annotations

from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer, cache_of

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache whose buffers double."""
    return cache_of(PreallocLayer)


class Buffer:
    """A buffer with spare room: `[batch, kv_heads, room, head_dim]`."""

    def __init__(self, first: torch.Tensor) -> None:
        self.room = first.clone(memory_format=torch.contiguous_format)
        self.used = first.shape[2]

    def append(self, new: torch.Tensor) -> torch.Tensor:
        """Write new positions after the others, and return a view of all of them."""
        end = self.used + new.shape[2]
        if end > self.room.shape[2]:
            batch, heads, room, size = self.room.shape
            larger = new.new_empty(batch, heads, max(2 * room, end), size)
            # The only full copy. The next one comes after as many steps as there are positions now.
            larger[:, :, : self.used] = self.room[:, :, : self.used]
            self.room = larger
        self.room[:, :, self.used : end] = new
        self.used = end
        return self.room[:, :, :end]


class PreallocLayer(HandLayer):
    """The growth of a Python list: rarely, and by a lot. A step writes one position."""

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write into the buffers, and return views of their filled part: nothing is copied."""
        if self.keys is None or self.values is None:
            self.key_buffer, self.value_buffer = Buffer(keys), Buffer(values)
            self.keys, self.values = self.key_buffer.room, self.value_buffer.room
        else:
            self.keys, self.values = self.key_buffer.append(keys), self.value_buffer.append(values)
        return self.keys, self.values
