"""`disk`: keys and values in memory-mapped files, the last positions in memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import Any

import torch

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer, cache_of, written

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache that keeps `recent` positions in memory, and files with room for the rest."""
    recent = int(call.settings["recent"])
    return cache_of(lambda: DiskLayer(recent, max(call.positions - recent, 0)))


class DiskLayer(HandLayer):
    """More positions than fit in memory. Each step reads the files, perhaps from the page cache."""

    def __init__(self, recent: int, room: int) -> None:
        super().__init__()
        self.recent, self.room = recent, room
        # Keys and values: the filled parts of the files, [batch, kv_heads, old, head_dim].
        self.on_disk: list[torch.Tensor] = []
        self.in_memory: list[torch.Tensor] = []  # [batch, kv_heads, recent, head_dim] twice

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all positions, then move those that are no longer recent to the files."""
        new = [keys, values]
        if self.in_memory:
            new = [torch.cat(pair, dim=2) for pair in zip(self.in_memory, new, strict=True)]
        elif self.room:
            self.on_disk = [mapped(one, self.room)[:, :, :0] for one in new]
        files = list(zip(self.on_disk, new, strict=False))  # Empty if everything is recent.
        found = [torch.cat([old.to(one.device), one], dim=2) for old, one in files] or new
        moved = max(new[0].shape[2] - self.recent, 0)
        self.on_disk = [written(old, self.room, one[:, :, :moved]) for old, one in files]
        # A copy, so the memory of the positions on disk is freed.
        self.in_memory = [one[:, :, moved:].clone() for one in new]
        return found[0], found[1]


def mapped(like: torch.Tensor, room: int) -> torch.Tensor:
    """Return a tensor in an unlinked file in TMPDIR, which the system removes with its mapping."""
    shape = (*like.shape[:2], room, like.shape[3])
    size = math.prod(shape) * like.dtype.itemsize
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # On a full disk, writing later would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=like.dtype).view(shape)
