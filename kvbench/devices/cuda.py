"""NVIDIA GPUs: torch's allocator, plus NVML for what torch does not report."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from kvbench.devices import host
from kvbench.devices.backend import Level, Survey
from kvbench.devices.meter import Readings
from kvbench.devices.nvml import Nvml, NvmlDevice, NvmlUnavailable
from kvbench.plan.case import Phase
from kvbench.records.environment import Device

__all__ = ["CudaBackend", "CudaMeter", "why_no_cuda"]

_GIB = 1 << 30

MIN_ENERGY_SECONDS = 1.0
"""The energy counter updates about every 100 ms: below this duration the error would exceed 10 %.
"""

_OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Out-of-memory errors of CUDA's runtime and cuBLAS; torch's allocator has its own class."""

_FAULTS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")


class CudaBackend:
    """The backend of CUDA devices; see `Backend`."""

    def present(self) -> tuple[str, ...]:
        """Return `cuda`, `cuda:1`, ... for the present devices; `cuda` is the first."""
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return tuple("cuda" if index == 0 else f"cuda:{index}" for index in range(count))

    def survey(self) -> Survey:
        """Return why there is no device or no NVML, and the versions of what is present."""
        absent = why_no_cuda()
        missing = [absent] if absent else []
        nvml_version = driver = None
        try:
            nvml = Nvml()
        except NvmlUnavailable as error:
            missing.append(str(error))
        else:
            nvml_version, driver = nvml.library_version(), nvml.driver_version()
            nvml.close()
        return Survey(
            missing=tuple(missing),
            absent=absent,
            cuda=torch.version.cuda,
            driver=driver,
            nvml=nvml_version,
        )

    def describe(self, name: str) -> Device:
        """Return the board's name, memory, UUID and compute capability."""
        properties = torch.cuda.get_device_properties(torch.device(name))
        return Device(
            name=name,
            hardware=properties.name,
            memory_bytes=properties.total_memory,
            uuid=str(properties.uuid),
            compute_capability=f"{properties.major}.{properties.minor}",
        )

    def lacks(self, dtype: str, device: torch.device) -> str | None:
        """Return that bfloat16 is missing on a board that only emulates it."""
        if dtype != "bfloat16":
            return None
        with torch.cuda.device(device):
            # torch emulates it on older GPUs, many times slower than anything people would want to
            # compare.
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return None
            return (
                f"dtype: {torch.cuda.get_device_name()} ({device}) has no bfloat16: use float16 "
                "or float32."
            )

    def free_bytes(self, device: torch.device) -> int:
        """Return the bytes that the driver reports as free on the device."""
        return int(torch.cuda.mem_get_info(device)[0])

    def reusable_bytes(self, device: torch.device) -> int:
        """Return the unused bytes that torch's allocator holds."""
        return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)

    def level(self, device: torch.device) -> Level:
        """Return the bytes that torch's allocator has given out."""
        return Level(allocated=torch.cuda.memory_allocated(device))

    def release(self) -> None:
        """Return the allocator's unused blocks to the driver; do nothing before CUDA is used."""
        torch.cuda.empty_cache()

    def is_out_of_memory(self, error: RuntimeError) -> bool:
        """Return whether CUDA's runtime or cuBLAS ran out of memory."""
        return any(mark in str(error) for mark in _OUT_OF_MEMORY)

    def is_fault(self, error: RuntimeError) -> bool:
        """Return whether CUDA or one of its libraries failed; the context may be unusable then."""
        return any(mark in str(error) for mark in _FAULTS)

    def meter(self, device: torch.device) -> CudaMeter:
        """Return a meter for the allocator and NVML."""
        return CudaMeter(device)

    def working_set_bytes(self, device: torch.device) -> int:
        """Return sixteen times the L2 cache, at least 1 GiB.

        The cache does not simply replace the oldest lines first.
        """
        return max(_GIB, 16 * torch.cuda.get_device_properties(device).L2_cache_size)


def why_no_cuda() -> str | None:
    """Return why there is no CUDA device, as a sentence; None if there is one."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"CUDA: this torch ({torch.__version__}) was built without it."
    return f"CUDA: torch ({torch.__version__}, CUDA {torch.version.cuda}) found no usable device."


class CudaMeter:
    """Read torch's allocator, and NVML's memory, energy, clocks and other processes."""

    needs_memory_pass = False
    # A thread that waits for a GPU may spin or sleep: its processor time is not informative.
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
        self._before = Readings()
        self._energy_mj: int | None = None

    def synchronise(self) -> None:
        """Wait for all streams of the device."""
        torch.cuda.synchronize(self._device)

    def start(self, phase: Phase) -> None:
        """Empty the allocator's cache, so reserved memory is this run's own; reset the peaks."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = Readings(
            torch_before_bytes=torch.cuda.memory_allocated(self._device),
            torch_reserved_before_bytes=torch.cuda.memory_reserved(self._device),
            nvml_before_bytes=self._gpu.used_memory()[0] if self._gpu else None,
        )
        self._share = host.CpuShare()
        self._energy_mj = self._gpu.energy_mj() if self._gpu else None
        self._start_s = time.perf_counter()

    def finish(self) -> Readings:
        """Read before anything is freed: torch returns no memory during a run."""
        seconds = time.perf_counter() - self._start_s
        readings = replace(
            self._before,
            other_cpu_share=self._share.others(),
            load_average=host.load_average(),
            cpu_governor=host.cpu_governor(),
            torch_peak_allocated_bytes=torch.cuda.max_memory_allocated(self._device),
            torch_peak_reserved_bytes=torch.cuda.max_memory_reserved(self._device),
            memory_method="torch-allocator",
        )
        return readings if self._gpu is None else self._of_the_board(self._gpu, readings, seconds)

    def cancel(self) -> None:
        """Do nothing: no thread runs between the readings."""

    def close(self) -> None:
        """Release NVML and the allocator's cache."""
        torch.cuda.empty_cache()
        if self._nvml is not None:
            self._nvml.close()

    def _of_the_board(self, gpu: NvmlDevice, readings: Readings, seconds: float) -> Readings:
        used, method = gpu.used_memory()
        joules, energy_method = self._energy(gpu, seconds)
        return replace(
            readings,
            energy_j=joules,
            energy_method=energy_method,
            nvml_peak_bytes=used,
            nvml_process_bytes=gpu.process_bytes(),
            memory_method=method,
            gpu_other_processes=gpu.other_processes(),
            gpu_throttle_reasons=gpu.throttle_reasons(),
            gpu_sm_clock_mhz=gpu.sm_clock_mhz(),
            gpu_temperature_c=gpu.temperature_c(),
        )

    def _energy(self, gpu: NvmlDevice, seconds: float) -> tuple[float | None, str]:
        now = gpu.energy_mj()
        if now is None or self._energy_mj is None:
            return None, "none: no counter"
        if seconds < MIN_ENERGY_SECONDS:
            return None, "none: window under 1 s"
        return (now - self._energy_mj) / 1000, "nvml-total-energy"
