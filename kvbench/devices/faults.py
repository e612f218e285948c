"""Classify exceptions of the machine: out of memory, and a failed device."""

from __future__ import annotations

import re

import torch

from kvbench.devices.registry import backends

__all__ = ["bytes_asked_for", "is_device_fault", "is_out_of_memory"]

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_ASKED = re.compile(rf"[Tt]ried to allocate (?P<number>[\d.]+) (?P<unit>{'|'.join(_UNITS)})")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on any kind of device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        backend.is_out_of_memory(error) for backend in backends()
    )


def bytes_asked_for(error: BaseException) -> int | None:
    """Return the size of the failed allocation in bytes, if the message has it.

    The CPU's allocator prints bytes; CUDA's prints a rounded size such as `20.00 GiB`.
    """
    found = _ASKED.search(str(error))
    if found is None:
        return None
    return round(float(found["number"]) * _UNITS[found["unit"]])


def is_device_fault(error: BaseException) -> bool:
    """Return whether a device reported an error of its own, after which it may be unusable."""
    return isinstance(error, RuntimeError) and any(
        backend.is_fault(error) for backend in backends()
    )
