"""Read the host: resident memory and its high-water mark, and the load of other processes."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from kvbench.errors import UserError

__all__ = [
    "CpuShare",
    "RssPoller",
    "cpu_governor",
    "high_water_mark_works",
    "last_level_cache_bytes",
    "limit_memory",
    "load_average",
    "peak_rss_bytes",
    "processor_name",
    "release_memory",
    "reset_peak_rss",
    "rss_bytes",
]

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_CPUS = Path("/sys/devices/system/cpu")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def rss_bytes() -> int:
    """Return the resident set of this process now."""
    return int(psutil.Process().memory_info().rss)


def limit_memory(limit: int) -> None:
    """Let this process use at most this many bytes: its resident set now, and what it asks for.

    The limit is on addresses (RLIMIT_AS), so what is mapped already but not resident, such as the
    code of libraries, is left out of the account.

    Raises:
        UserError: the system has no such limit, or the process uses more than that already.
    """
    if sys.platform != "linux":
        raise UserError("--memory-limit: needs Linux.", kind="not_supported")
    used = psutil.Process().memory_info()
    spare = limit - int(used.rss)
    if spare <= 0:
        raise UserError(
            f"--memory-limit: Python and torch alone use {used.rss / 2**20:.0f} MiB; use a "
            "higher limit.",
            kind="too_few",
            name="--memory-limit",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = int(used.vms) + spare
    # A limit from outside, as by ulimit, cannot be exceeded.
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def release_memory() -> None:
    """Collect garbage and return the C library's unused memory to the system.

    Otherwise the next run reuses holes that the last one left, and its peak over its base is too
    high or too low by chance.
    """
    gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def reset_peak_rss() -> None:
    """Reset the high-water mark of the resident set to the current value (Linux)."""
    _CLEAR_REFS.write_text("5")


def peak_rss_bytes() -> int:
    """Return the high-water mark of the resident set since the last reset (Linux)."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


@functools.cache
def high_water_mark_works() -> bool:
    """Return whether the high-water mark can be reset and read; some sandboxes support neither."""
    try:
        reset_peak_rss()
        peak_rss_bytes()
    except OSError:
        return False
    return True


class RssPoller:
    """Poll the largest resident set in a thread, every `interval` seconds, while the block runs.

    Polling slows down what it watches, so use it only for untimed passes.
    """

    def __init__(self, interval: float = 0.002) -> None:
        self.peak = 0
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        self.peak = rss_bytes()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, rss_bytes())

    def _poll(self) -> None:
        while not self._done.wait(self._interval):
            self.peak = max(self.peak, rss_bytes())


class CpuShare:
    """Measure the fraction of processor time that other processes used since `start`.

    The system's busy time minus this process's own, over all processors. The system counts in ticks
    of 10 ms, so a short window is not informative.
    """

    MIN_SECONDS = 0.2

    def __init__(self) -> None:
        self._start = self._read()

    def others(self) -> float | None:
        """Return 0.0 to 1.0, or None for a window that is too short."""
        wall, busy, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        if wall < self.MIN_SECONDS:
            return None
        available = wall * (psutil.cpu_count() or 1)
        return min(max((busy - own) / available, 0.0), 1.0)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # user already includes guest time.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        own = os.times()
        return time.perf_counter(), total - idle, own.user + own.system


def load_average() -> float | None:
    """Return the load average of the last minute; None if the system has none."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


@functools.cache
def cpu_governor() -> str | None:
    """Return the frequency governor of the first processor; None if it is not available."""
    try:
        return _GOVERNOR.read_text().strip()
    except OSError:
        return None


def processor_name() -> str:
    """Return the processor's model."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        # Not Linux: use what platform knows.
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def last_level_cache_bytes() -> int:
    """Return the total size of the largest caches; 0 if the system does not report them."""
    sizes: dict[tuple[int, str], int] = {}
    for cache in _CPUS.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared, size = (
                (cache / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")
            )
            # Such as 36608K. A shared cache is listed with each processor that shares it.
            sizes[int(level), shared] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    last = max((level for level, _ in sizes), default=0)
    return sum(size for (level, _), size in sizes.items() if level == last)


@functools.cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
