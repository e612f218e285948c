"""The backends of all kinds of device, resolved from the names in their entries."""

from __future__ import annotations

import functools
from typing import cast

import torch

from kvbench.bodies import named_body
from kvbench.device_kinds import KINDS, kind_of
from kvbench.devices.backend import Backend
from kvbench.devices.meter import Meter
from kvbench.records.environment import Device

__all__ = [
    "backend_of",
    "backends",
    "describe_device",
    "make_meter",
    "present_devices",
    "release_memory",
]


@functools.cache
def _load(path: str) -> Backend:
    return cast("Backend", named_body(path)())


def backends() -> tuple[Backend, ...]:
    """Return the backend of each kind, present or not."""
    return tuple(_load(kind.backend) for kind in KINDS.values())


def backend_of(device: torch.device | str) -> Backend:
    """Return the backend for this kind of device."""
    return _load(kind_of(str(device)).backend)


def present_devices() -> tuple[str, ...]:
    """Return the present devices: `cpu`, then `cuda`, `cuda:1`, ..."""
    return tuple(name for backend in backends() for name in backend.present())


def describe_device(name: str) -> Device:
    """Return the hardware behind the name of a present device."""
    return backend_of(name).describe(name)


def make_meter(device: torch.device) -> Meter:
    """Return a meter for a device."""
    return backend_of(device).meter(device)


def release_memory() -> None:
    """Collect garbage and release unused allocator memory, on every device.

    Raises:
        RuntimeError: a device has reported a fault and is unusable.
    """
    for backend in backends():
        backend.release()
