"""Convert a model to float32 temporarily: its weights are cast in place, and restored exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from kvbench.devices.registry import backend_of, release_memory

__all__ = ["in_float32"]

_MARGIN = 1.1
"""Require more room than the weights take: on the CPU a process that runs out is killed without an
error.
"""


@contextlib.contextmanager
def in_float32(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Hold the parameters and floating-point buffers of type `dtype` in float32 inside the block.

    Tensors of any other type stay as they are, including float32 ones such as rotary frequencies.
    Converting bfloat16 and float16 to float32 and back is exact, so the tensors are restored bit
    for bit, also after an error; tied weights stay tied.

    Raises:
        MemoryError: the device does not have enough free memory.
    """
    if dtype == torch.float32:
        yield
        return
    storages = _storages(model, dtype)
    _check_room(storages)
    try:
        _cast(storages, torch.float32)
        yield
    finally:
        # A cast that ran out of memory half-way leaves the rest untouched.
        _cast([group for group in storages if group[0].dtype == torch.float32], dtype)
        # The next measurement should find memory as it was.
        release_memory()


def _storages(model: torch.nn.Module, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Return the tensors of one type grouped by storage: tied weights, views of a buffer."""
    groups: dict[int, list[torch.Tensor]] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dtype == dtype and tensor.numel():
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    return list(groups.values())


@torch.no_grad()
def _cast(storages: list[list[torch.Tensor]], dtype: torch.dtype) -> None:
    # One storage at a time, so old and new coexist for only one of them.
    for group in storages:
        storage = group[0].untyped_storage()
        length = storage.nbytes() // group[0].element_size()
        flat = group[0].new_empty(0).set_(storage, 0, (length,), (1,)).to(dtype)
        for tensor in group:
            tensor.data = flat.as_strided(
                tensor.size(), tensor.stride(), int(tensor.storage_offset())
            )


def _check_room(storages: list[list[torch.Tensor]]) -> None:
    sizes = [(group[0].untyped_storage().nbytes(), group[0]) for group in storages]
    if not sizes:
        return
    # The additional bytes of float32, and the last old storage that still coexists with its new
    # one.
    grown = sum(size * 4 // tensor.element_size() - size for size, tensor in sizes)
    needed = int(_MARGIN * (grown + max(size for size, _ in sizes)))
    device = storages[0][0].device
    backend = backend_of(device)
    # Memory that torch holds but does not use is free too.
    available = backend.free_bytes(device) + backend.reusable_bytes(device)
    if needed > available:
        raise MemoryError(
            f"the float32 weights need {needed / 2**30:.1f} GiB more, and {device} has "
            f"{available / 2**30:.1f} GiB free"
        )
