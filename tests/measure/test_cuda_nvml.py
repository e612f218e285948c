"""NVML on a real GPU: changing memory, energy, reasons for reduced clocks, other processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
import torch

from kvbench.devices.nvml import NvmlDevice
from kvbench.measure.engine import LocalEngine
from kvbench.plan.case import Case
from kvbench.records.events import ModelLoaded
from kvbench.records.sample import Sample
from tests.fakes import run_task
from tests.run.faults import wait_until
from tests.tiny import GPT2, LLAMA, case, config_folder, task

pytestmark = pytest.mark.cuda

MIB = 2**20
DEVICE = "cuda"

# The driver allocates memory in blocks of 2 MiB; other processes must be absent.
SLACK = 32 * MIB

# A process that takes memory on the device, reports it, and holds it until its input is closed.
NEIGHBOUR = """
import sys, torch
block = torch.ones(256 * 2**20, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("ready", flush=True)
sys.stdin.read()
"""

# Named as NVML's constants, to reveal a wrong bit in kvbench.
REASONS = {
    "SwPowerCap": "sw_power_cap",
    "HwSlowdown": "hw_slowdown",
    "SyncBoost": "sync_boost",
    "SwThermalSlowdown": "sw_thermal_slowdown",
    "HwThermalSlowdown": "hw_thermal_slowdown",
    "HwPowerBrakeSlowdown": "hw_power_brake",
    "DisplayClockSetting": "display_clock",
}


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Another process on the device while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.stdin.close()


def measured(engine: LocalEngine, one: Case) -> Sample:
    """A timed sample of a case after a warm-up; its model is opened."""
    opened = engine.open(one.model_key)
    assert isinstance(opened, ModelLoaded), opened
    run_task(engine, task(one, "warmup"))
    return run_task(engine, task(one))[0]


def used(gpu: NvmlDevice) -> int:
    """Return NVML's used memory; skip without it."""
    found = gpu.used_memory()[0]
    if found is None:
        pytest.skip("NVML does not tell the memory in use here")
    return found


def raw_reasons(gpu: NvmlDevice) -> int | None:
    """Return the bits as pynvml returns them."""
    for name in (
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    ):
        with contextlib.suppress(pynvml.NVMLError, AttributeError):
            return int(getattr(pynvml, name)(gpu._handle))
    return None


def put_to_work() -> None:
    """Give the device some tenths of a second of work without waiting for it."""
    left = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(200):
        torch.mm(left, left)


def test_used_memory_moves_with_what_torch_takes_and_gives_back(gpu: NvmlDevice) -> None:
    torch.cuda.empty_cache()
    before, reserved = used(gpu), torch.cuda.memory_reserved()
    held = torch.ones(512 * MIB, dtype=torch.uint8, device=DEVICE)
    assert torch.cuda.memory_reserved() - reserved == 512 * MIB
    assert abs(used(gpu) - before - 512 * MIB) <= SLACK
    del held
    # Freed only for torch.
    assert abs(used(gpu) - before - 512 * MIB) <= SLACK
    torch.cuda.empty_cache()
    assert abs(used(gpu) - before) <= SLACK


def test_a_sample_s_growth_is_that_of_the_allocator(
    gpu: NvmlDevice, engine: LocalEngine, tmp_path: Path
) -> None:
    used(gpu)
    one = case(config_folder(tmp_path, GPT2), device=DEVICE, batch_size=4096, max_new_tokens=50)
    sample = measured(engine, one)
    assert sample.status == "ok", sample.error
    assert sample.nvml_peak_bytes is not None and sample.nvml_before_bytes is not None
    assert sample.torch_peak_reserved_bytes is not None
    assert sample.torch_reserved_before_bytes is not None
    assert sample.torch_peak_allocated_bytes is not None
    assert sample.torch_before_bytes is not None
    assert sample.kv_cache_bytes == 2 * 2 * 4096 * 64 * (5 + 50 - 1) * 4
    assert sample.torch_peak_allocated_bytes - sample.torch_before_bytes >= sample.kv_cache_bytes
    # Earlier reservations have free space, which is used first and causes no growth.
    reserved = sample.torch_peak_reserved_bytes - sample.torch_reserved_before_bytes
    assert reserved >= sample.kv_cache_bytes
    assert abs(sample.nvml_peak_bytes - sample.nvml_before_bytes - reserved) <= SLACK


def test_a_neighbour_is_seen_in_memory_counted_and_flags_the_sample(
    gpu: NvmlDevice, engine: LocalEngine, tmp_path: Path
) -> None:
    one = case(config_folder(tmp_path, GPT2), device=DEVICE)
    # Run once before: kernels and cuBLAS's workspace come with the first call, and stay.
    measured(engine, one)
    engine.close()
    before, reserved, alone = used(gpu), torch.cuda.memory_reserved(), gpu.other_processes()
    with neighbour():
        # Its context comes on top.
        assert used(gpu) - before >= 256 * MIB
        assert torch.cuda.memory_reserved() == reserved
        beside, sample = gpu.other_processes(), measured(engine, one)
    engine.close()
    wait_until(lambda: used(gpu) - before <= SLACK, "the neighbour's memory is given back")
    if alone is None:
        pytest.skip("the list of processes is hidden here, as in most containers")
    assert beside == sample.gpu_other_processes == alone + 1
    assert "busy_gpu" in (sample.flags or "").split()
    wait_until(lambda: gpu.other_processes() == alone, "the neighbour leaves the list")
    flags = (measured(engine, one).flags or "").split()
    assert ("busy_gpu" in flags) == (alone > 0)


@pytest.mark.parametrize("busy", [False, True])
def test_reasons_for_reduced_clocks_are_those_of_the_bits(gpu: NvmlDevice, busy: bool) -> None:
    known = {getattr(pynvml, f"nvmlClocksEventReason{end}"): n for end, n in REASONS.items()}
    for _ in range(20):
        if busy:
            put_to_work()
        before, reasons, after = raw_reasons(gpu), gpu.throttle_reasons(), raw_reasons(gpu)
        torch.cuda.synchronize()
        if before is None:
            assert reasons is None
            pytest.skip("NVML does not tell the reasons here")
        # Between two equal readings; they change on their own.
        if before == after:
            found = [name for bit, name in sorted(known.items()) if bit & before]
            assert reasons == ("+".join(found) or "none")
            return
    pytest.skip("the reasons change faster than they can be read")


def test_a_sample_of_more_than_a_second_has_its_energy(
    gpu: NvmlDevice, engine: LocalEngine, tmp_path: Path
) -> None:
    if gpu.energy_mj() is None:
        pytest.skip("the board has no energy counter, or the container hides it")
    folder = config_folder(tmp_path, LLAMA, max_position_embeddings=1_000_000)
    tokens, fields = 500, dict[str, Any](device=DEVICE)
    sample = measured(engine, case(folder, max_new_tokens=tokens, **fields))
    while sample.status == "ok" and (sample.total_s or 0.0) < 1.2:
        tokens *= 2
        sample = run_task(engine, task(case(folder, max_new_tokens=tokens, **fields)))[0]
    assert sample.status == "ok", sample.error
    assert sample.energy_method == "nvml-total-energy"
    assert sample.energy_j is not None and sample.total_s is not None
    assert sample.energy_j / sample.total_s > 5
