"""The interface of every kind of device, and the plain records that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from kvbench.devices.meter import Meter
from kvbench.records.environment import Device

__all__ = ["Backend", "Level", "Survey"]


class Level(NamedTuple):
    """Bytes in use, excluding other processes as far as the device can tell.

    Attributes:
        allocated: the exact bytes that torch has allocated on the device.
        resident: the resident set of this process, which varies by pages.
    """

    allocated: int | None = None
    resident: int | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a kind of device reports about this machine.

    Attributes:
        missing: what cannot be used or read here, and why, as sentences.
        absent: why there is no such device, as a sentence; None if there is one.
        cuda, driver, nvml: versions.
        governor: of the processors' frequency.
    """

    missing: tuple[str, ...] = ()
    absent: str | None = None
    cuda: str | None = None
    driver: str | None = None
    nvml: str | None = None
    governor: str | None = None


class Backend(Protocol):
    """The interface to the devices of one kind. It has no state; a meter has."""

    def present(self) -> tuple[str, ...]:
        """Return the names of the devices that torch can use here, in order."""

    def survey(self) -> Survey:
        """Return versions and what is missing on this machine."""

    def describe(self, name: str) -> Device:
        """Return the hardware behind the name of a present device."""

    def lacks(self, dtype: str, device: torch.device) -> str | None:
        """Return why a device cannot run a dtype, as a sentence; None if it can."""

    def free_bytes(self, device: torch.device) -> int:
        """Return the bytes that the system could still give this process."""

    def reusable_bytes(self, device: torch.device) -> int:
        """Return the bytes that torch holds but does not use."""

    def level(self, device: torch.device) -> Level:
        """Return what is in use now, to detect what a generation leaves behind."""

    def release(self) -> None:
        """Release what allocators hold but do not use."""

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Return whether an error means out of memory, beyond torch's own exception class."""

    def is_fault(self, error: RuntimeError) -> bool:
        """Return whether the device reported an error of its own and may be unusable."""

    def meter(self, device: torch.device) -> Meter:
        """Return a meter that reads the device around a run."""

    def working_set_bytes(self, device: torch.device) -> int:
        """Return the working set in bytes that measures memory rather than caches."""
