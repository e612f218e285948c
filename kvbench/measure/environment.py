"""Read the machine: processors, devices, drivers, versions, and what is missing and why."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable

import psutil
import torch

from kvbench.caches import PACKAGES
from kvbench.device_kinds import KINDS
from kvbench.devices.host import processor_name
from kvbench.devices.registry import backend_of, describe_device, present_devices
from kvbench.errors import UserError
from kvbench.measure.packages import installed
from kvbench.records.environment import Device, Environment
from kvbench.records.rates import Rates, find_rates, read_rates
from kvbench.version import __version__

__all__ = ["read_environment"]

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
"""Packages that can affect a number or a strategy, or that read one."""


def read_environment() -> Environment:
    """Return the current environment of this process."""
    # List first what an accelerator lacks.
    kinds = reversed(tuple(KINDS))
    by_kind = {kind: backend_of(kind).survey() for kind in kinds}
    surveys = tuple(by_kind.values())
    missing = [sentence for survey in surveys for sentence in survey.missing]
    devices = tuple(describe_device(name) for name in present_devices())
    return Environment(
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=processor_name(),
        logical_cpus=psutil.cpu_count() or 1,
        physical_cpus=psutil.cpu_count(logical=False),
        usable_cpus=_usable_cpus(),
        memory_bytes=psutil.virtual_memory().total,
        threads=torch.get_num_threads(),
        governor=_first(survey.governor for survey in surveys),
        devices=devices,
        cuda=_first(survey.cuda for survey in surveys),
        driver=_first(survey.driver for survey in surveys),
        nvml=_first(survey.nvml for survey in surveys),
        versions=_versions(),
        rates=_known_rates(devices, missing),
        missing=tuple(missing),
        absent={kind: survey.absent for kind, survey in by_kind.items() if survey.absent},
    )


def _first(values: Iterable[str | None]) -> str | None:
    """Return the one value that some kind of device reported."""
    return next((value for value in values if value is not None), None)


def _known_rates(devices: tuple[Device, ...], missing: list[str]) -> tuple[Rates, ...]:
    """Return the stored rates of these devices; a damaged store only counts as missing."""
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
    # Read from the code itself: it may run from its repository, without being installed.
    return {"kvbench": __version__} | installed(dict.fromkeys((*_PACKAGES, *PACKAGES)))


def _usable_cpus() -> int:
    """Return the number of usable processors, which is lower under taskset or cpusets."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
