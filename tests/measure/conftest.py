"""Fixtures that the measuring tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kvbench.devices.nvml import Nvml, NvmlDevice, NvmlUnavailable
from kvbench.measure.engine import LocalEngine


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    """An engine in this process, closed at the end."""
    engine = LocalEngine()
    yield engine
    engine.close()


@pytest.fixture
def gpu() -> Iterator[NvmlDevice]:
    """Return the first CUDA device as NVML knows it, with this process's context already on it."""
    try:
        nvml = Nvml()
    except NvmlUnavailable as error:
        pytest.skip(str(error))
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    yield nvml.device(str(torch.cuda.get_device_properties(0).uuid))
    nvml.close()
