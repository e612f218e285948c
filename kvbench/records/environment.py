"""The environment of a run: what a reader of its results must know about the machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvbench.records.rates import Rates

__all__ = ["Device", "Environment"]


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device that torch can use. Sizes in bytes; fields that do not apply are null."""

    name: str
    hardware: str
    memory_bytes: int | None = None
    uuid: str | None = None
    compute_capability: str | None = None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the software of a run.

    Attributes:
        versions: package name to version, for all packages that can affect a result.
        missing: what is missing, and why, as sentences.
        absent: why there is no device of a kind, as a sentence, by the name of the kind.
        rates: the rates of devices that `kvbench probe` measured before.
    """

    platform: str
    python: str
    cpu: str
    logical_cpus: int
    physical_cpus: int | None
    usable_cpus: int
    memory_bytes: int
    threads: int | None
    governor: str | None
    devices: tuple[Device, ...]
    cuda: str | None = None
    driver: str | None = None
    nvml: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    absent: dict[str, str] = field(default_factory=dict)
    rates: tuple[Rates, ...] = ()

    def hardware(self, device: str) -> str:
        """Return the hardware behind a device's name, or the name itself if it is unknown."""
        names = {entry.name: entry.hardware for entry in self.devices}
        return names.get(device, device)
