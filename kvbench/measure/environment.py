"""Look at the machine: processors, devices, drivers, versions, and what is missing and why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil
import torch

from kvbench.devices.host import cpu_governor, high_water_mark_works
from kvbench.devices.nvml import Nvml, NvmlUnavailable
from kvbench.devices.present import present_devices, why_no_cuda
from kvbench.errors import UserError
from kvbench.records.environment import Device, Environment
from kvbench.records.rates import Rates, find_rates, read_rates
from kvbench.version import __version__

__all__ = ["describe_device", "read_environment"]

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "nvidia-ml-py",
    "gguf",
    "triton",
    "flash-attn",
    "optimum-quanto",
    "hqq",
)
"""Packages that can move a number or a strategy, or that read one."""


def read_environment() -> Environment:
    """The environment of this process now."""
    missing = [why_no_cuda()]
    nvml_version = driver = None
    try:
        nvml = Nvml()
    except NvmlUnavailable as error:
        missing.append(str(error))
    else:
        nvml_version, driver = nvml.library_version(), nvml.driver_version()
        nvml.close()
    if cpu_governor() is None:
        missing.append("CPU governor: the system does not show one, as in most virtual machines.")
    if not high_water_mark_works():
        missing.append("High-water mark: /proc/self/clear_refs cannot be used; memory is polled.")
    devices = tuple(describe_device(name) for name in present_devices())
    return Environment(
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=_cpu_name(),
        logical_cpus=psutil.cpu_count() or 1,
        physical_cpus=psutil.cpu_count(logical=False),
        usable_cpus=_usable_cpus(),
        memory_bytes=psutil.virtual_memory().total,
        threads=torch.get_num_threads(),
        governor=cpu_governor(),
        devices=devices,
        cuda=torch.version.cuda,
        driver=driver,
        nvml=nvml_version,
        versions=_versions(),
        rates=_known_rates(devices, missing),
        missing=tuple(sentence for sentence in missing if sentence),
    )


def describe_device(name: str) -> Device:
    """The hardware behind the name of a device that is present."""
    if name == "cpu":
        memory = psutil.virtual_memory().total
        return Device(name="cpu", hardware=_cpu_name(), memory_bytes=memory)
    properties = torch.cuda.get_device_properties(torch.device(name))
    return Device(
        name=name,
        hardware=properties.name,
        memory_bytes=properties.total_memory,
        uuid=str(properties.uuid),
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def _known_rates(devices: tuple[Device, ...], missing: list[str | None]) -> tuple[Rates, ...]:
    """What was probed of these devices before; a store that is damaged is only missing."""
    try:
        stored = read_rates()
    except UserError as error:
        missing.append(f"Rates: {error}")
        return ()
    found = (
        find_rates(
            stored,
            device=device.name,
            hardware=device.hardware,
            uuid=device.uuid,
            threads=torch.get_num_threads(),
        )
        for device in devices
    )
    return tuple(rates for rates in found if rates is not None)


def _versions() -> dict[str, str]:
    # From the code itself: it may run from its repository, without being installed.
    versions = {"kvbench": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        # Not Linux: platform knows what there is to know.
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def _usable_cpus() -> int:
    """Processors that this process may run on: fewer than there are under taskset or cpusets."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
