"""Meters: what is read before and after a run, and what makes a sample doubtful."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvbench.devices import cuda, host, rapl
from kvbench.devices.cpu import CpuMeter
from kvbench.devices.cuda import CudaMeter
from kvbench.devices.meter import Readings, trust_flags
from kvbench.devices.nvml import Nvml, NvmlUnavailable
from kvbench.devices.registry import make_meter
from tests.devices.fake_nvml import FakeNvml, NotSupported, process

MIB = 2**20
CPU = torch.device("cpu")
CUDA = torch.device("cuda:0")
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
HOST_FIELDS = {"other_cpu_share", "load_average", "cpu_governor"}

needs_mark = pytest.mark.skipif(
    not host.high_water_mark_works(), reason="the high-water mark cannot be reset here"
)


def touch(mib: int) -> None:
    """Allocate, hold long enough for a poller to see it, free."""
    block = torch.ones(mib * MIB // 4)
    time.sleep(0.05)
    assert block[0] == 1


@pytest.fixture(autouse=True)
def no_rapl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without energy counters; test_rapl.py covers machines with them."""
    monkeypatch.setattr(rapl, "_POWERCAP", Path("no-such-folder"))


@pytest.fixture
def no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without a high-water mark."""
    monkeypatch.setattr(host, "high_water_mark_works", lambda: False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the torch.cuda functions that were called, without a device."""
    names: list[str] = []

    def fake(name: str, answer: Any = None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            names.append(name)
            return answer

        return call

    answers = {
        "get_device_properties": SimpleNamespace(uuid="abc"),
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 100,
        "memory_reserved": 150,
        "max_memory_allocated": 300,
        "max_memory_reserved": 400,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, fake(name, answer))
    return names


def cuda_meter(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, seconds: float = 2.0) -> CudaMeter:
    """Return a meter on a fake board whose runs take this many seconds."""
    readings = iter([50.0, 50.0 + seconds])
    monkeypatch.setattr(cuda, "Nvml", lambda: Nvml(nvml))
    monkeypatch.setattr(cuda, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    return CudaMeter(CUDA)


def read(readings: Readings) -> dict[str, Any]:
    """Return what was read, without readings that not every machine has."""
    fields = dataclasses.asdict(readings)
    return {k: v for k, v in fields.items() if v is not None and k not in HOST_FIELDS}


def measured(meter: CudaMeter) -> Readings:
    meter.start("measure")
    return meter.finish()


def without_nvml(monkeypatch: pytest.MonkeyPatch) -> CudaMeter:
    def unavailable() -> Nvml:
        raise NvmlUnavailable("NVML: no driver.")

    monkeypatch.setattr(cuda, "Nvml", unavailable)
    return CudaMeter(CUDA)


def test_each_kind_of_device_has_its_meter(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    monkeypatch.setattr(cuda, "Nvml", lambda: Nvml(FakeNvml()))
    assert isinstance(make_meter(CPU), CpuMeter)
    assert isinstance(make_meter(CUDA), CudaMeter)


@needs_mark
def test_the_cpu_gives_its_high_water_mark() -> None:
    meter = CpuMeter()
    meter.start("measure")
    touch(64)
    fields = meter.finish()
    assert set(read(fields)) == {
        "rss_before_bytes",
        "rss_peak_bytes",
        "memory_method",
        "energy_method",
    }
    assert fields.memory_method == "vmhwm"
    assert abs(fields.rss_peak_bytes - fields.rss_before_bytes - 64 * MIB) < 8 * MIB


@needs_mark
def test_each_run_has_a_peak_of_its_own() -> None:
    meter = CpuMeter()
    meter.start("measure")
    touch(64)
    first = meter.finish()
    meter.start("measure")
    second = meter.finish()
    assert first.rss_peak_bytes - second.rss_peak_bytes > 48 * MIB


@needs_mark
def test_with_a_high_water_mark_there_is_nothing_to_say() -> None:
    meter = CpuMeter()
    assert not meter.needs_memory_pass
    assert meter.notice is None


@pytest.mark.usefixtures("no_mark")
def test_without_a_high_water_mark_a_pass_of_its_own_is_polled() -> None:
    meter = CpuMeter()
    assert meter.needs_memory_pass
    assert "polled in a separate untimed pass" in (meter.notice or "")
    meter.start("memory")
    touch(64)
    fields = meter.finish()
    assert fields.memory_method == "rss-polled"
    assert abs(fields.rss_peak_bytes - fields.rss_before_bytes - 64 * MIB) < 8 * MIB


@pytest.mark.usefixtures("no_mark")
@pytest.mark.parametrize("phase", ["warmup", "measure"])
def test_no_thread_watches_a_timed_run(phase: Any) -> None:
    meter = CpuMeter()
    before = threading.active_count()
    meter.start(phase)
    assert threading.active_count() == before
    fields = meter.finish()
    assert set(read(fields)) == {"rss_before_bytes", "energy_method"}


@pytest.mark.usefixtures("no_mark")
def test_cancelling_ends_the_thread_that_watches() -> None:
    meter = CpuMeter()
    before = threading.active_count()
    meter.start("memory")
    assert threading.active_count() == before + 1
    meter.cancel()
    meter.cancel()
    assert threading.active_count() == before
    meter.start("measure")
    assert meter.finish().rss_peak_bytes is None


def test_a_cuda_run_has_all_columns(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    nvml = FakeNvml(**{ENERGY: [5000, 8500]})
    fields = measured(cuda_meter(monkeypatch, nvml))
    assert read(fields) == {
        "torch_before_bytes": 100,
        "torch_reserved_before_bytes": 150,
        "torch_peak_allocated_bytes": 300,
        "torch_peak_reserved_bytes": 400,
        "nvml_before_bytes": 10000,
        "nvml_peak_bytes": 10000,
        "memory_method": "nvml-used-v2",
        "energy_j": 3.5,
        "energy_method": "nvml-total-energy",
        "gpu_throttle_reasons": "none",
        "gpu_sm_clock_mhz": 1980,
        "gpu_temperature_c": 45,
    }


def test_memory_is_brought_to_a_known_state_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    nvml = FakeNvml()
    nvml.calls = calls
    meter = cuda_meter(monkeypatch, nvml)
    calls.clear()
    meter.start("measure")
    read = [calls.index("memory_allocated"), calls.index("nvmlDeviceGetMemoryInfo")]
    assert calls.index("empty_cache") < min(read)
    assert "reset_peak_memory_stats" in calls


def test_memory_is_read_before_anything_is_freed(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    nvml = FakeNvml()
    nvml.calls = calls
    meter = cuda_meter(monkeypatch, nvml)
    meter.start("measure")
    calls.clear()
    meter.finish()
    assert "nvmlDeviceGetMemoryInfo" in calls
    assert not {"empty_cache", "reset_peak_memory_stats"} & set(calls)


def test_the_clock_waits_for_the_device(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    meter = cuda_meter(monkeypatch, FakeNvml())
    calls.clear()
    meter.synchronise()
    assert calls == ["synchronize"]


@pytest.mark.parametrize(("seconds", "joules"), [(0.99, None), (1.0, 2.5), (60.0, 2.5)])
def test_energy_is_null_under_a_second(
    monkeypatch: pytest.MonkeyPatch, calls: list[str], seconds: float, joules: float | None
) -> None:
    nvml = FakeNvml(**{ENERGY: [10_000, 12_500]})
    fields = measured(cuda_meter(monkeypatch, nvml, seconds))
    assert fields.energy_j == joules
    expected = "none: window under 1 s" if joules is None else "nvml-total-energy"
    assert fields.energy_method == expected


def test_energy_is_null_without_a_counter(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    nvml = FakeNvml(**{ENERGY: NotSupported("Not Supported")})
    fields = measured(cuda_meter(monkeypatch, nvml))
    assert fields.energy_j is None
    assert fields.energy_method == "none: no counter"


def test_a_counter_that_stood_still_is_zero_joules(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    nvml = FakeNvml(**{ENERGY: [0, 0]})
    assert measured(cuda_meter(monkeypatch, nvml)).energy_j == 0.0


def test_without_nvml_torch_is_read_alone(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    meter = without_nvml(monkeypatch)
    assert (meter.notice or "").startswith("NVML: no driver. Memory of the whole GPU")
    fields = measured(meter)
    assert fields.memory_method == "torch-allocator"
    assert fields.torch_peak_reserved_bytes == 400
    assert fields.nvml_before_bytes is None
    assert not {name for name in read(fields) if name.startswith("gpu_")}
    meter.close()


def test_a_device_that_nvml_does_not_know_is_told(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    nvml = FakeNvml("GPU-other")
    meter = cuda_meter(monkeypatch, nvml)
    assert "no device with the UUID abc" in (meter.notice or "")
    meter.close()
    assert nvml.calls == ["nvmlInit", "nvmlShutdown"]


def test_with_nvml_there_is_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    meter = cuda_meter(monkeypatch, FakeNvml())
    assert meter.notice is None
    assert not meter.needs_memory_pass


def test_closing_gives_nvml_back(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    nvml = FakeNvml()
    cuda_meter(monkeypatch, nvml).close()
    assert nvml.calls == ["nvmlInit", "nvmlShutdown"]


def test_neighbours_on_the_board_are_counted(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    nvml = FakeNvml(nvmlDeviceGetComputeRunningProcesses=[process(-1), process(-2)])
    assert measured(cuda_meter(monkeypatch, nvml)).gpu_other_processes == 1


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, []),
        ({"other_cpu_share": None, "gpu_other_processes": None}, []),
        ({"other_cpu_share": 0.1}, []),
        ({"other_cpu_share": 0.11}, ["busy_cpu"]),
        ({"gpu_other_processes": 0}, []),
        ({"gpu_other_processes": 2}, ["busy_gpu"]),
        ({"gpu_throttle_reasons": "none"}, []),
        ({"gpu_throttle_reasons": None}, []),
        ({"gpu_throttle_reasons": "sw_power_cap"}, ["throttled"]),
        (
            {"other_cpu_share": 1.0, "gpu_other_processes": 1, "gpu_throttle_reasons": "a+b"},
            ["busy_cpu", "busy_gpu", "throttled"],
        ),
    ],
)
def test_doubts_become_flags(fields: dict[str, Any], flags: list[str]) -> None:
    assert trust_flags(Readings(**fields)) == flags
