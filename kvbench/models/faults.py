"""Which exceptions are the machine's: out of memory, and a device that has given up."""

from __future__ import annotations

import torch

__all__ = ["is_device_fault", "is_out_of_memory"]

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    # CUDA's runtime and cuBLAS, outside torch's allocator, which has a class of its own.
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _OUT_OF_MEMORY)


def is_device_fault(error: BaseException) -> bool:
    """Whether a GPU reported an error of its own, after which its context may be dead."""
    return isinstance(error, RuntimeError) and any(
        mark in str(error) for mark in ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")
    )
