"""What is otherwise in one record than in another of its kind, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kvbench.records.environment import Device, Environment
from kvbench.text import clip

__all__ = ["changes", "environment_changes"]

_NO_MATTER = frozenset({"missing", "memory_bytes", "devices", "versions", "rates"})
"""Fields of an environment that are words, move by a few pages at each start, are compared piece
by piece, or were measured: a newer probe makes no other machine."""


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key whose value differs: `torch: 2.12.0 before, 2.13.0 now`."""
    for key in dict.fromkeys([*old, *new]):
        before, now = old.get(key), new.get(key)
        if before != now:
            yield f"{key}: {_shown(before)} before, {_shown(now)} now"


def environment_changes(old: Environment, new: Environment, devices: Collection[str]) -> list[str]:
    """What is otherwise in a new environment, a line each; of devices, only those named."""
    lines = [
        *changes(_plain(old), _plain(new)),
        *changes(_hardware(old, devices), _hardware(new, devices)),
        *changes(_compared(old.versions), _compared(new.versions)),
    ]
    # The CPU is a fact of the machine and a device.
    return list(dict.fromkeys(lines))


def _compared(versions: Mapping[str, str]) -> dict[str, str]:
    """The versions that a run may not mix: kvbench's own is recorded and not compared."""
    return {name: version for name, version in versions.items() if name != "kvbench"}


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return "none" if value is None or value == "" else clip(value)


def _plain(environment: Environment) -> dict[str, Any]:
    fields = dataclasses.fields(environment)
    return {f.name: getattr(environment, f.name) for f in fields if f.name not in _NO_MATTER}


def _hardware(environment: Environment, devices: Collection[str]) -> dict[str, str]:
    return {d.name: _device(d) for d in environment.devices if d.name in devices}


def _device(device: Device) -> str:
    # The memory of a CPU is that of the machine.
    return " ".join(filter(None, [device.hardware, device.uuid]))
