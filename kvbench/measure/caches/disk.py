"""`disk`: keys and values in memory-mapped files, the last positions in memory."""

from __future__ import annotations

import functools
import math
import mmap
import os
import tempfile
from typing import Any

import torch
from transformers import Cache

from kvbench.measure.caches.call import Call
from kvbench.measure.caches.layer import HandLayer

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a cache that keeps `recent` positions in memory, and files with room for the rest."""
    recent = int(call.settings["recent"])
    layer: Any = functools.partial(DiskLayer, recent, max(call.positions - recent, 0))
    return {"past_key_values": Cache(layer_class_to_replicate=layer)}


def mapped(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor in a new file in the folder of temporary files (TMPDIR).

    The file is unlinked at once, so the system removes it when the tensor goes away or the process
    ends, however that happens. The tensor keeps the mapping.
    """
    size = math.prod(shape) * dtype.itemsize
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            # Allocate now: a full disk would otherwise kill the process when it writes to the
            # mapping.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).view(shape)


class DiskLayer(HandLayer):
    """More positions than fit in memory. Each step reads the files, perhaps from the page cache."""

    def __init__(self, recent: int, room: int) -> None:
        super().__init__()
        self.recent, self.room = recent, room
        # The filled parts of the files, [batch, kv_heads, old, head_dim], on the host.
        self.on_disk: list[torch.Tensor] = []
        self.in_memory: list[torch.Tensor] = []  # [batch, kv_heads, recent, head_dim] twice

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all positions, then move those that are no longer recent to the files."""
        new = [keys, values]
        if self.in_memory:
            new = [torch.cat(pair, dim=2) for pair in zip(self.in_memory, new, strict=True)]
        elif self.room:
            files = [mapped((*one.shape[:2], self.room, one.shape[3]), one.dtype) for one in new]
            self.on_disk = [file[:, :, :0] for file in files]
        found = new
        if self.on_disk:
            pairs = zip(self.on_disk, new, strict=True)
            found = [torch.cat([old.to(one.device), one], dim=2) for old, one in pairs]
        moved = max(new[0].shape[2] - self.recent, 0)
        if moved:
            self.on_disk = [
                written(old, self.room, one[:, :, :moved])
                for old, one in zip(self.on_disk, new, strict=True)
            ]
        # A copy, so the memory of the positions on disk is freed.
        self.in_memory = [one[:, :, moved:].clone() for one in new]
        return found[0], found[1]


def written(old: torch.Tensor, room: int, new: torch.Tensor) -> torch.Tensor:
    """Return the filled part of a file, after writing new positions behind the old ones."""
    end = old.shape[2] + new.shape[2]
    whole = old.as_strided((*old.shape[:2], room, old.shape[3]), old.stride())
    whole[:, :, old.shape[2] : end] = new
    return whole[:, :, :end]
