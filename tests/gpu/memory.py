"""What this process holds of a device: the tensors that are alive, the allocator's bytes."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

MIB = 1 << 20


@dataclass(frozen=True)
class Held:
    """Bytes of torch's allocator."""

    allocated: int
    reserved: int

    def __str__(self) -> str:
        return f"{self.allocated / MIB:.1f}/{self.reserved / MIB:.0f}"


def emptied() -> Held:
    """Return what the allocator still holds once it has given back all it can.

    The workspaces of cuBLAS go as well: they stay where the first product found room, and keep a
    segment of any size reserved.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        # Private, so that a release of torch may be without it; then they stay, which is harmless.
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        torch.cuda.empty_cache()
    return Held(torch.cuda.memory_allocated(), torch.cuda.memory_reserved())


def live_tensors(kind: str) -> list[str]:
    """Return the type, shape and dtype of each tensor that is alive on devices of a kind.

    Numbers are left out: libraries keep some as tensors without a shape.
    """
    return [
        f"{type(one).__name__} {tuple(one.shape)} {one.dtype}"
        for one in gc.get_objects()
        # By its type: to ask some objects of libraries for their class imports things, or warns.
        if issubclass(type(one), torch.Tensor) and one.ndim and one.device.type == kind
    ]
