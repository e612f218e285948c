"""Find the differences between two records of the same kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kvbench.records.environment import Device, Environment
from kvbench.text import clip

__all__ = ["CaseChanges", "Change", "changes", "environment_changes"]

_NO_MATTER = frozenset({"missing", "absent", "memory_bytes", "devices", "versions", "rates"})
"""Fields of an environment that are prose, change slightly at each start, are compared separately,
or were measured: a newer probe does not make a different machine.
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose value differs between two records; `old` and `new` are printable."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} before, now {self.new}"


@dataclass(frozen=True, slots=True)
class CaseChanges:
    """How many cases only one of two plans has, where their keys are equal."""

    new: int
    gone: int

    def __str__(self) -> str:
        return f"cases: {self.new} new, {self.gone} gone"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Yield each key whose value differs."""
    for key in dict.fromkeys([*old, *new]):
        before, now = old.get(key), new.get(key)
        if before != now:
            yield Change(key, _shown(before), _shown(now))


def environment_changes(
    old: Environment, new: Environment, devices: Collection[str]
) -> list[Change]:
    """Return the differences of a new environment; only the named devices are compared."""
    found = [
        *changes(_plain(old), _plain(new)),
        *changes(_hardware(old, devices), _hardware(new, devices)),
        *changes(_compared(old.versions), _compared(new.versions)),
    ]
    # The CPU is both a fact of the machine and a device.
    return list(dict.fromkeys(found))


def _compared(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that a run may not mix: kvbench's own is recorded and not compared."""
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
    # The memory of a CPU is the machine's memory.
    return " ".join(filter(None, [device.hardware, device.uuid]))
