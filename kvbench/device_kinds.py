"""The kinds of device, as far as they are known without torch: one entry each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "HOST",
    "KINDS",
    "DeviceKind",
    "first_name",
    "is_device_name",
    "kind_of",
    "needs_full_warmup",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """What holds for every device of a kind. The defaults describe an accelerator.

    Attributes:
        name: the first part of a device's name in a case: `cuda` of `cuda:1`.
        backend: the class that talks to such a device, as `module:class`; see kvbench/devices/. A
            string, because the entry must not import torch.
        is_host: whether it is the host's own processors and memory.
        memory_label: the name in tables for the memory that a case uses.
        half_needs_full_warmup: whether the first pass over each new length is slow in half
            precision, so a warm-up must reach every timed length.
        queues_work: whether work is queued, so launches overlap with the device's work.
    """

    name: str
    backend: str = ""
    is_host: bool = False
    memory_label: str = "VRAM"
    half_needs_full_warmup: bool = True
    queues_work: bool = False


KINDS: dict[str, DeviceKind] = {
    kind.name: kind
    for kind in (
        DeviceKind(
            name="cpu",
            backend="kvbench.devices.cpu:CpuBackend",
            is_host=True,
            memory_label="RSS",
            half_needs_full_warmup=False,
        ),
        DeviceKind(name="cuda", backend="kvbench.devices.cuda:CudaBackend", queues_work=True),
    )
}
"""All kinds by name, in the order in which `auto` takes them."""

HOST = next(kind.name for kind in KINDS.values() if kind.is_host)
"""The name of the one device that every machine has."""


def kind_of(device: str) -> DeviceKind:
    """Return the kind of a device by its name in a case, such as `cuda:1`.

    An unregistered kind, as in a run of another version, has the defaults.
    """
    name = device.partition(":")[0]
    return KINDS.get(name) or DeviceKind(name=name)


def needs_full_warmup(device: str, dtype: str) -> bool:
    """Return whether a warm-up must reach every length that is timed; see `DeviceKind`."""
    return kind_of(device).half_needs_full_warmup and dtype != "float32"


def is_device_name(name: str) -> bool:
    """Return whether a text names a device, present or not: `cpu`, `cuda:7`."""
    return name.partition(":")[0] in KINDS


def first_name(name: str) -> str:
    """Return the canonical name of a device: `cuda` for `cuda:0`."""
    kind = kind_of(name)
    return kind.name if not kind.is_host and name == f"{kind.name}:0" else name
