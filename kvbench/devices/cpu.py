"""The CPU: the machine's processors and memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from kvbench.device_kinds import HOST
from kvbench.devices import host
from kvbench.devices.backend import Level, Survey
from kvbench.devices.meter import Readings
from kvbench.devices.rapl import Rapl
from kvbench.plan.case import Phase
from kvbench.records.environment import Device

__all__ = ["CpuBackend", "CpuMeter"]

_MIB = 1 << 20

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")


class CpuBackend:
    """The backend of the CPU; see `Backend`."""

    def present(self) -> tuple[str, ...]:
        """Return the CPU's name: every machine has one."""
        return (HOST,)

    def survey(self) -> Survey:
        """Return which readings the system does not offer."""
        missing = []
        if host.cpu_governor() is None:
            missing.append("CPU governor: not exposed by the system, as in most virtual machines.")
        if not host.high_water_mark_works():
            missing.append(
                "Peak memory: /proc/self/clear_refs is not usable here; memory is polled instead."
            )
        problem = Rapl().problem
        if problem is not None:
            missing.append(f"CPU energy: {problem}.")
        return Survey(missing=tuple(missing), governor=host.cpu_governor())

    def describe(self, name: str) -> Device:
        """Return the processor and the machine's memory."""
        memory = psutil.virtual_memory().total
        return Device(name=name, hardware=host.processor_name(), memory_bytes=memory)

    def lacks(self, dtype: str, device: torch.device) -> str | None:
        """Return None: torch computes in every dtype, even if slowly."""
        return None

    def free_bytes(self, device: torch.device) -> int:
        """Return the memory that the system reports as available."""
        return int(psutil.virtual_memory().available)

    def reusable_bytes(self, device: torch.device) -> int:
        """Return 0: torch holds no unused memory here."""
        return 0

    def level(self, device: torch.device) -> Level:
        """Return the resident set after releasing unused memory."""
        host.release_memory()
        return Level(resident=host.rss_bytes())

    def release(self) -> None:
        """Collect garbage and return the C library's unused memory to the system."""
        host.release_memory()

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Return whether torch's CPU allocator or oneDNN ran out of memory."""
        return any(mark in str(error) for mark in _OUT_OF_MEMORY)

    def is_fault(self, error: RuntimeError) -> bool:
        """Return False: a processor's faults are not exceptions."""
        return False

    def meter(self, device: torch.device) -> CpuMeter:
        """Return a meter for the resident set and the processor time of other processes."""
        return CpuMeter()

    def working_set_bytes(self, device: torch.device) -> int:
        """Return four times the last-level caches, at least 256 MiB."""
        return max(256 * _MIB, 4 * host.last_level_cache_bytes())


class CpuMeter:
    """Read the resident set and its high-water mark, energy, and the load of other processes."""

    processor_s: Callable[[], float] | None = staticmethod(time.process_time)

    def __init__(self) -> None:
        self.needs_memory_pass = not host.high_water_mark_works()
        self.notice = (
            "The kernel's peak memory counter cannot be reset here; memory is polled in a separate "
            "untimed pass."
            if self.needs_memory_pass
            else None
        )
        self._before = 0
        self._poller: host.RssPoller | None = None
        self._share = host.CpuShare()
        self._rapl = Rapl()
        self._energy: tuple[int, ...] | None = None
        self._start_s = 0.0

    def synchronise(self) -> None:
        """Do nothing: the CPU works in the calling thread."""

    def start(self, phase: Phase) -> None:
        """Free unused memory, reset the high-water mark, and read the resident set."""
        host.release_memory()
        if phase == "memory":
            self._poller = host.RssPoller()
            self._poller.__enter__()
        elif not self.needs_memory_pass:
            host.reset_peak_rss()
        self._before = host.rss_bytes()
        self._share = host.CpuShare()
        self._energy = self._rapl.read()
        self._start_s = time.perf_counter()

    def finish(self) -> Readings:
        """Return the high-water mark of the run and the energy of the processor packages."""
        seconds = time.perf_counter() - self._start_s
        joules, energy_method = self._rapl.joules(self._energy, self._rapl.read(), seconds)
        others = self._share.others()
        peak, method = self._peak()
        return Readings(
            memory_method=method,
            rss_before_bytes=self._before,
            rss_peak_bytes=peak,
            energy_j=joules,
            energy_method=energy_method,
            other_cpu_share=others,
            load_average=host.load_average(),
            cpu_governor=host.cpu_governor(),
        )

    def cancel(self) -> None:
        """Stop the thread that polls, if this was a memory pass."""
        if self._poller is not None:
            self._poller.__exit__(None, None, None)
            self._poller = None

    def close(self) -> None:
        """Do nothing: no resource is held."""

    def _peak(self) -> tuple[int | None, str | None]:
        """Return the largest resident set of the run in bytes, and how it was read."""
        if self._poller is not None:
            poller = self._poller
            self.cancel()
            return poller.peak, "rss-polled"
        if self.needs_memory_pass:
            return None, None
        return host.peak_rss_bytes(), "vmhwm"
