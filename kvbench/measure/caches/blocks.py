"""`blocks`: blocks of a few positions and a block table, gathered at every read."""

from __future__ import annotations

from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer, cache_of, written

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache whose layers keep blocks of `size` positions."""
    size = int(call.settings["size"])
    return cache_of(lambda: BlocksLayer(size))


class BlocksLayer(HandLayer):
    """Paged memory, as in an operating system: the pool is unordered, the table is ordered.

    A sequence never needs one contiguous piece of memory, never moves when it grows, and wastes
    less than one block. A dedicated kernel reads through the table; this layer gathers a copy
    first.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        # The filled part of each block, [kv_heads, up to size, 2 * head_dim]: keys, then values.
        self.pool: list[torch.Tensor] = []
        # For each sequence, the indices of its blocks in the pool, oldest first.
        self.table: list[list[int]] = []

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill blocks, and return what the table points to, in order."""
        both = torch.cat([keys, values], dim=3)  # [batch, kv_heads, new, 2 * head_dim]
        self.table = self.table or [[] for _ in both]
        # Cut where a block is full. Sequences take turns, as requests do in a server, so their
        # blocks alternate in the pool.
        cuts = range(-self.seen % self.size or self.size, both.shape[2], self.size)
        for part in both.tensor_split(list(cuts), dim=2):
            for table, new in zip(self.table, part, strict=True):
                self.write(table, new)
        batch, heads, count, width = both.shape
        gathered = both.new_empty(batch, heads, self.seen + count, width)
        for table, row in zip(self.table, gathered, strict=True):
            torch.cat([self.pool[block] for block in table], dim=1, out=row)
        # Each [batch, kv_heads, all, head_dim]. Keys and values may differ in the last size.
        return gathered[..., : keys.shape[3]], gathered[..., keys.shape[3] :]

    def write(self, table: list[int], new: torch.Tensor) -> None:
        """Write into a sequence's last block, or into a new one when that is full."""
        if not table or self.pool[table[-1]].shape[1] == self.size:
            table.append(len(self.pool))
            heads, _, width = new.shape
            self.pool.append(new.new_empty(heads, self.size, width)[:, :0])
        self.pool[table[-1]] = written(self.pool[table[-1]], self.size, new)
