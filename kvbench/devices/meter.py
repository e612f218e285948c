"""A meter reads a device before and after a run, and nothing while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kvbench.plan.case import Phase

__all__ = ["Meter", "Readings", "trust_flags"]

BUSY_CPU_SHARE = 0.1
"""A sample is flagged if other processes use at least this fraction of the processors."""


@dataclass(frozen=True, kw_only=True)
class Readings:
    """The readings around a run; null is what this device, or this machine, does not provide.

    The fields are documented by the columns of a sample with the same names.
    """

    memory_method: str | None = None
    rss_before_bytes: int | None = None
    rss_peak_bytes: int | None = None
    torch_before_bytes: int | None = None
    torch_reserved_before_bytes: int | None = None
    torch_peak_allocated_bytes: int | None = None
    torch_peak_reserved_bytes: int | None = None
    nvml_before_bytes: int | None = None
    nvml_peak_bytes: int | None = None
    nvml_process_bytes: int | None = None
    energy_j: float | None = None
    energy_method: str | None = None
    gpu_other_processes: int | None = None
    gpu_throttle_reasons: str | None = None
    gpu_sm_clock_mhz: int | None = None
    gpu_temperature_c: int | None = None
    other_cpu_share: float | None = None
    load_average: float | None = None
    cpu_governor: str | None = None


class Meter(Protocol):
    """Reads a device around a run.

    Attributes:
        notice: a line to show if something cannot be read.
        needs_memory_pass: memory can only be read in a separate, untimed pass.
        processor_s: reads the processor seconds of this process, if it does the work itself; a
            pause is then a time without them, otherwise a gap between tokens.
    """

    notice: str | None
    needs_memory_pass: bool
    processor_s: Callable[[], float] | None

    def synchronise(self) -> None:
        """Wait until the device has finished all queued work."""

    def start(self, phase: Phase) -> None:
        """Bring the memory to a known state and take the first readings."""

    def finish(self) -> Readings:
        """Take the second readings, before anything is freed."""

    def cancel(self) -> None:
        """Stop reading: the run failed, and `finish` will not be called."""

    def close(self) -> None:
        """Release what the meter holds."""


def trust_flags(readings: Readings) -> list[str]:
    """Return reasons to doubt a sample, based on the readings around it."""
    flags = []
    if (readings.other_cpu_share or 0) > BUSY_CPU_SHARE:
        flags.append("busy_cpu")
    if readings.gpu_other_processes:
        flags.append("busy_gpu")
    if readings.gpu_throttle_reasons not in (None, "none"):
        flags.append("throttled")
    return flags
