"""A meter a kind of device: what is read before and after a run, and nothing while it runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from kvbench.case import Phase
from kvbench.devices import host
from kvbench.devices.nvml import Nvml, NvmlDevice, NvmlUnavailable

__all__ = ["METERS", "CpuMeter", "CudaMeter", "Meter", "make_meter", "trust_flags"]

BUSY_CPU_SHARE = 0.1
"""From this share of the processors in the hands of others on, a sample is flagged."""

MIN_ENERGY_SECONDS = 1.0
"""The energy counter moves about every 100 ms: below this the error would pass 10 %."""


class Meter(Protocol):
    """Reads a device around a run.

    Attributes:
        notice: a line for people if something cannot be read.
        needs_memory_pass: memory can only be read in an untimed pass of its own.
        processor_s: reads processor seconds of this process, where they are what does the work.
    """

    notice: str | None
    needs_memory_pass: bool
    processor_s: Callable[[], float] | None

    def synchronise(self) -> None:
        """Wait until the device has done all it was given."""

    def start(self, phase: Phase) -> None:
        """Bring the memory to a known state and read what is to be compared."""

    def finish(self) -> dict[str, Any]:
        """Read again, before anything is freed. Returns fields of Sample."""

    def cancel(self) -> None:
        """Stop reading: the run failed, and `finish` will not be called."""

    def close(self) -> None:
        """Give back what the meter holds."""


class CpuMeter:
    """Resident set, its high-water mark, and who else used the processors."""

    processor_s: Callable[[], float] | None = staticmethod(time.process_time)

    def __init__(self, device: torch.device) -> None:
        del device  # There is one CPU.
        self.needs_memory_pass = not host.high_water_mark_works()
        self.notice = (
            "The high-water mark of memory cannot be reset here, so memory is polled in a pass of "
            "its own."
            if self.needs_memory_pass
            else None
        )
        self._before = 0
        self._poller: host.RssPoller | None = None
        self._share = host.CpuShare()

    def synchronise(self) -> None:
        """Nothing to wait for: the CPU works in the calling thread."""

    def start(self, phase: Phase) -> None:
        """Free what can be freed, reset the high-water mark, read the resident set."""
        host.release_memory()
        if phase == "memory":
            self._poller = host.RssPoller()
            self._poller.__enter__()
        elif not self.needs_memory_pass:
            host.reset_peak_rss()
        self._before = host.rss_bytes()
        self._share = host.CpuShare()

    def finish(self) -> dict[str, Any]:
        """The high-water mark of the run."""
        fields: dict[str, Any] = {"rss_before_bytes": self._before} | _host_fields(self._share)
        if self._poller is not None:
            poller = self._poller
            self.cancel()
            fields |= {"rss_peak_bytes": poller.peak, "memory_method": "rss-polled"}
        elif not self.needs_memory_pass:
            fields |= {"rss_peak_bytes": host.peak_rss_bytes(), "memory_method": "vmhwm"}
        return fields

    def cancel(self) -> None:
        """Stop the thread that polls, if this was a memory pass."""
        if self._poller is not None:
            self._poller.__exit__(None, None, None)
            self._poller = None

    def close(self) -> None:
        """Nothing is held."""


class CudaMeter:
    """torch's allocator, NVML's memory and energy, clocks and neighbours."""

    needs_memory_pass = False
    # A thread that waits for a GPU may spin or sleep: its processor time says nothing.
    processor_s: Callable[[], float] | None = None

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.notice: str | None = None
        self._nvml: Nvml | None = None
        self._gpu: NvmlDevice | None = None
        try:
            self._nvml = Nvml()
            self._gpu = self._nvml.device(str(torch.cuda.get_device_properties(device).uuid))
        except NvmlUnavailable as error:
            self.notice = f"{error} Memory of the whole GPU, energy and clocks are not recorded."
        self._share = host.CpuShare()
        self._start_s = 0.0
        self._before: dict[str, Any] = {}
        self._energy_mj: int | None = None

    def synchronise(self) -> None:
        """Wait for all streams of the device."""
        torch.cuda.synchronize(self._device)

    def start(self, phase: Phase) -> None:
        """Empty the allocator's cache, so that what it reserves is this run's; reset the peaks."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = {
            "torch_before_bytes": torch.cuda.memory_allocated(self._device),
            "torch_reserved_before_bytes": torch.cuda.memory_reserved(self._device),
            "nvml_before_bytes": self._gpu.used_memory()[0] if self._gpu else None,
        }
        self._share = host.CpuShare()
        self._energy_mj = self._gpu.energy_mj() if self._gpu else None
        self._start_s = time.perf_counter()

    def finish(self) -> dict[str, Any]:
        """Read before anything is freed: torch hands nothing back during a run."""
        seconds = time.perf_counter() - self._start_s
        fields = self._before | _host_fields(self._share)
        fields |= {
            "torch_peak_allocated_bytes": torch.cuda.max_memory_allocated(self._device),
            "torch_peak_reserved_bytes": torch.cuda.max_memory_reserved(self._device),
            "memory_method": "torch-allocator",
        }
        if self._gpu is not None:
            used, method = self._gpu.used_memory()
            fields |= self._energy(self._gpu, seconds) | {
                "nvml_peak_bytes": used,
                "nvml_process_bytes": self._gpu.process_bytes(),
                "memory_method": method,
                "gpu_other_processes": self._gpu.other_processes(),
                "gpu_throttle_reasons": self._gpu.throttle_reasons(),
                "gpu_sm_clock_mhz": self._gpu.sm_clock_mhz(),
                "gpu_temperature_c": self._gpu.temperature_c(),
            }
        return fields

    def cancel(self) -> None:
        """Nothing runs between the readings."""

    def close(self) -> None:
        """Give NVML and the allocator's cache back."""
        torch.cuda.empty_cache()
        if self._nvml is not None:
            self._nvml.close()

    def _energy(self, gpu: NvmlDevice, seconds: float) -> dict[str, Any]:
        now = gpu.energy_mj()
        if now is None or self._energy_mj is None:
            return {"energy_method": "none: no counter"}
        if seconds < MIN_ENERGY_SECONDS:
            return {"energy_method": "none: window under 1 s"}
        return {"energy_j": (now - self._energy_mj) / 1000, "energy_method": "nvml-total-energy"}


METERS: dict[str, type[CpuMeter] | type[CudaMeter]] = {"cpu": CpuMeter, "cuda": CudaMeter}


def make_meter(device: torch.device) -> Meter:
    """The meter for a device's kind."""
    return METERS[device.type](device)


def trust_flags(fields: dict[str, Any]) -> list[str]:
    """Reasons to doubt a sample, from what was read around it."""
    flags = []
    if (fields.get("other_cpu_share") or 0) > BUSY_CPU_SHARE:
        flags.append("busy_cpu")
    if fields.get("gpu_other_processes"):
        flags.append("busy_gpu")
    if fields.get("gpu_throttle_reasons") not in (None, "none"):
        flags.append("throttled")
    return flags


def _host_fields(share: host.CpuShare) -> dict[str, Any]:
    return {
        "other_cpu_share": share.others(),
        "load_average": host.load_average(),
        "cpu_governor": host.cpu_governor(),
    }
