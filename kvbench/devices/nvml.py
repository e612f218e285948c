"""NVML: memory, energy, clocks and other processes of a GPU, matched to torch's device by UUID."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import pynvml

__all__ = ["NVML_USED", "NVML_USED_AND_RESERVED", "Nvml", "NvmlDevice", "NvmlUnavailable"]

NVML_USED, NVML_USED_AND_RESERVED = "nvml-used-v2", "nvml-used+torch-allocator"
"""Names of the two ways to read used memory. Runs that predate the first one used the second;
memory is compared only within one method.
"""

T = TypeVar("T")

_THROTTLE_REASONS = {
    # Bits as defined in NVML's header; idle and application clocks are not unexpected slowdowns.
    0x0000000000000004: "sw_power_cap",
    0x0000000000000008: "hw_slowdown",
    0x0000000000000010: "sync_boost",
    0x0000000000000020: "sw_thermal_slowdown",
    0x0000000000000040: "hw_thermal_slowdown",
    0x0000000000000080: "hw_power_brake",
    0x0000000000000100: "display_clock",
}


class NvmlUnavailable(Exception):
    """NVML cannot be used here; the text explains why in plain words."""


class Nvml:
    """The initialized library. `module` is pynvml, or a fake in tests.

    Raises:
        NvmlUnavailable: there is no driver, or it denies access.
    """

    def __init__(self, module: ModuleType | Any = pynvml) -> None:
        self._module = module
        try:
            module.nvmlInit()
        except module.NVMLError as error:
            raise NvmlUnavailable(f"NVML: {error}; is the NVIDIA driver installed?") from error

    def driver_version(self) -> str | None:
        """Return the driver's version."""
        return self._ask(self._module.nvmlSystemGetDriverVersion)

    def library_version(self) -> str | None:
        """Return NVML's version."""
        return self._ask(self._module.nvmlSystemGetNVMLVersion)

    def device(self, uuid: str) -> NvmlDevice:
        """Return the device of a torch UUID: CUDA_VISIBLE_DEVICES changes indices but not UUIDs.

        Raises:
            NvmlUnavailable: NVML has no device or MIG instance with this UUID.
        """
        problem = None
        for prefix in ("GPU-", "MIG-"):
            try:
                handle = self._module.nvmlDeviceGetHandleByUUID(prefix + uuid)
            except self._module.NVMLError as error:
                problem = error
            else:
                return NvmlDevice(self, handle)
        raise NvmlUnavailable(f"NVML knows no device with the UUID {uuid}: {problem}")

    def close(self) -> None:
        """Shut the library down."""
        self._ask(self._module.nvmlShutdown)

    def _ask(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """Return a reading, or None if the board or the container does not provide it."""
        try:
            return function(*arguments)
        except self._module.NVMLError:
            return None


class NvmlDevice:
    """One GPU. Every reading is None if it is unavailable, never 0."""

    def __init__(self, nvml: Nvml, handle: Any) -> None:
        self._nvml = nvml
        self._module = nvml._module
        self._handle = handle

    def used_memory(self) -> tuple[int | None, str]:
        """Return the bytes in use on the device, by all processes, and the name of the method.

        The second version of NVML's call reports the driver's own reservation separately; the first
        counts it as used (487 MiB on an H100). Old drivers and libraries only have the first.
        """
        version = getattr(self._module, "nvmlMemory_v2", None)
        info = self._ask("nvmlDeviceGetMemoryInfo", version) if version is not None else None
        if info is not None:
            return int(info.used), NVML_USED
        info = self._ask("nvmlDeviceGetMemoryInfo")
        return None if info is None else int(info.used), NVML_USED_AND_RESERVED

    def process_bytes(self) -> int | None:
        """Return the memory of this process; None if it is not listed, as in most containers."""
        for process in self._processes() or ():
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None

    def other_processes(self) -> int | None:
        """Return the number of other compute processes with a context on the device itself.

        Inside a container the list has the host's process ids, so one entry is assumed to be this
        process whatever its id; an empty list means that the list is hidden: None.
        """
        processes = self._processes()
        return len(processes) - 1 if processes else None

    def throttle_reasons(self) -> str | None:
        """Return the reasons for reduced clocks now, joined by `+`; `none` if there are none."""
        # Renamed in driver 535; older libraries only have the old name.
        names = (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        )
        for name in names:
            bits = self._ask(name) if hasattr(self._module, name) else None
            if bits is not None:
                reasons = [text for bit, text in _THROTTLE_REASONS.items() if bits & bit]
                return "+".join(reasons) or "none"
        return None

    def sm_clock_mhz(self) -> int | None:
        """Return the SM clock in MHz."""
        return _whole(self._ask("nvmlDeviceGetClockInfo", self._module.NVML_CLOCK_SM))

    def temperature_c(self) -> int | None:
        """Return the temperature of the GPU in degrees Celsius."""
        return _whole(self._ask("nvmlDeviceGetTemperature", self._module.NVML_TEMPERATURE_GPU))

    def energy_mj(self) -> int | None:
        """Return millijoules since the driver loaded, updated about every 100 ms (from Volta)."""
        return _whole(self._ask("nvmlDeviceGetTotalEnergyConsumption"))

    def _processes(self) -> list[Any] | None:
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return None if processes is None else list(processes)

    def _ask(self, name: str, *arguments: Any) -> Any:
        return self._nvml._ask(getattr(self._module, name), self._handle, *arguments)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
