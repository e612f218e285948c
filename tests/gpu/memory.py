"""What this process holds on a device: live tensors and the allocator's bytes."""

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
    """Return what the allocator still holds after releasing everything it can.

    The workspaces of cuBLAS go as well: they stay where the first product found room, and keep a
    segment of any size reserved.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        # Private, so a release of torch may lack it; then the workspaces stay, which is harmless.
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        torch.cuda.empty_cache()
    return Held(torch.cuda.memory_allocated(), torch.cuda.memory_reserved())


def live_tensors(kind: str) -> list[str]:
    """Return the type, shape and dtype of each live tensor on devices of a kind.

    Numbers are left out: libraries keep some as tensors without a shape.
    """
    return [
        f"{type(one).__name__} {tuple(one.shape)} {one.dtype}"
        for one in gc.get_objects()
        # Check the type: asking some library objects for their class imports modules, or warns.
        if issubclass(type(one), torch.Tensor) and one.ndim and one.device.type == kind
    ]
