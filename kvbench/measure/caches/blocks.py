"""`blocks`: blocks of a few positions and a block table, gathered at every read."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import Cache

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache whose layers keep blocks of `size` positions."""
    layer: Any = functools.partial(BlocksLayer, int(call.settings["size"]))
    return {"past_key_values": Cache(layer_class_to_replicate=layer)}


class BlocksLayer(HandLayer):
    """Paged memory, as in an operating system: the pool is unordered, the table is ordered.

    A sequence never needs one contiguous piece of memory, never moves when it grows, and wastes
    less than one block. A dedicated kernel reads through the table; this layer gathers a copy
    first.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        # A block is [2, kv_heads, size, head_dim]: keys and values. `pool` has their filled parts.
        self.pool: list[torch.Tensor] = []
        # For each sequence, the indices of its blocks in the pool, oldest first.
        self.table: list[list[int]] = []

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill blocks, and return what the table points to, in order."""
        both = torch.stack([keys, values], dim=1)  # [batch, 2, kv_heads, new, head_dim]
        self.table = self.table or [[] for _ in both]
        done = 0
        while done < both.shape[3]:
            start = (self.seen + done) % self.size
            count = min(self.size - start, both.shape[3] - done)
            # Take sequences in turn, as requests arrive in a server: their blocks alternate in the
            # pool.
            for row, table in zip(both, self.table, strict=True):
                self.write(table, start, row[:, :, done : done + count])
            done += count
        batch, two, heads, new, head_dim = both.shape
        gathered = both.new_empty(batch, two, heads, self.seen + new, head_dim)
        for row, table in zip(gathered, self.table, strict=True):
            torch.cat([self.pool[block] for block in table], dim=2, out=row)
        return gathered[:, 0], gathered[:, 1]  # each [batch, kv_heads, all, head_dim]

    def write(self, table: list[int], start: int, new: torch.Tensor) -> None:
        """Write positions into a sequence's last block, or into a new one when that is full."""
        two, heads, count, size = new.shape
        if start == 0:
            table.append(len(self.pool))
            self.pool.append(new.new_empty(two, heads, self.size, size))
        block = self.pool[table[-1]]
        # The filled part is a view of the whole block, which has room behind it.
        whole = block.as_strided((two, heads, self.size, size), block.stride())
        whole[:, :, start : start + count] = new
        self.pool[table[-1]] = whole[:, :, : start + count]
