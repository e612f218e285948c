"""What every kind of device answers, and the plain records that it answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from kvbench.devices.meter import Meter
from kvbench.records.environment import Device

__all__ = ["Backend", "Level", "Survey"]


class Level(NamedTuple):
    """Bytes in use, as far as a kind of device can tell without other processes' part.

    Attributes:
        allocated: what torch has given out on the device, exactly.
        resident: the resident set of this process, which comes and goes by pages.
    """

    allocated: int | None = None
    resident: int | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a kind of device has to say about this machine.

    Attributes:
        missing: what cannot be used or read here, each with why, as sentences.
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
    """Talks to the devices of one kind. It has no state; a meter has."""

    def present(self) -> tuple[str, ...]:
        """Return the names of the devices that torch can use here, the first one first."""

    def survey(self) -> Survey:
        """Return what is missing on this machine, and versions."""

    def describe(self, name: str) -> Device:
        """Return the hardware behind the name of a device that is present."""

    def lacks(self, dtype: str, device: torch.device) -> str | None:
        """Return why a device cannot be measured in a dtype, as a sentence; None if it can."""

    def free_bytes(self, device: torch.device) -> int:
        """Return the bytes that the system would still give to this process."""

    def reusable_bytes(self, device: torch.device) -> int:
        """Return the bytes that torch keeps for itself and does not use."""

    def level(self, device: torch.device) -> Level:
        """Return what is in use now, to see what a generation leaves behind."""

    def release(self) -> None:
        """Give back what allocators keep without using it."""

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Return whether an error says that memory ran out, beyond torch's class for it."""

    def is_fault(self, error: RuntimeError) -> bool:
        """Return whether the device reported an error of its own and may be dead."""

    def meter(self, device: torch.device) -> Meter:
        """Return what reads the device around a run."""

    def working_set_bytes(self, device: torch.device) -> int:
        """Return the bytes to read for a rate of memory rather than of caches."""
