"""NVML: matched by UUID, and null, never 0, for unavailable readings."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from kvbench.devices import nvml as nvml_module
from kvbench.devices.nvml import (
    NVML_USED,
    NVML_USED_AND_RESERVED,
    Nvml,
    NvmlDevice,
    NvmlUnavailable,
)
from tests.devices.fake_nvml import FakeNvml, NotSupported, NVMLError, process

OURS = os.getpid()
EVENTS = "nvmlDeviceGetCurrentClocksEventReasons"
THROTTLE = "nvmlDeviceGetCurrentClocksThrottleReasons"
PROCESSES = "nvmlDeviceGetComputeRunningProcesses"
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


def device(**answers: Any) -> NvmlDevice:
    return Nvml(FakeNvml(**answers)).device("abc")


def with_processes(*processes: Any) -> NvmlDevice:
    return device(**{PROCESSES: list(processes)})


def test_without_a_driver_nvml_says_why() -> None:
    fake = FakeNvml(nvmlInit=NVMLError("Library Not Found"))
    with pytest.raises(NvmlUnavailable) as caught:
        Nvml(fake)
    assert str(caught.value) == "NVML: Library Not Found; is the NVIDIA driver installed?"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_the_real_library_without_a_driver_is_unavailable() -> None:
    with pytest.raises(NvmlUnavailable, match="NVML: "):
        Nvml()


def test_the_real_library_has_what_is_called() -> None:
    fake = FakeNvml()
    names = [*fake.answers, "nvmlDeviceGetHandleByUUID", THROTTLE]
    assert [name for name in names if not callable(getattr(pynvml, name, None))] == []
    for constant in ("NVML_CLOCK_SM", "NVML_TEMPERATURE_GPU"):
        assert getattr(fake, constant) == getattr(pynvml, constant)


def test_versions_are_those_of_the_library() -> None:
    nvml = Nvml(FakeNvml())
    assert (nvml.driver_version(), nvml.library_version()) == ("580.1", "13.580.1")


def test_versions_that_cannot_be_had_are_null() -> None:
    refused = NotSupported("Not Supported")
    nvml = Nvml(FakeNvml(nvmlSystemGetDriverVersion=refused, nvmlSystemGetNVMLVersion=refused))
    assert (nvml.driver_version(), nvml.library_version()) == (None, None)


def test_closing_gives_the_library_back_once() -> None:
    fake = FakeNvml()
    Nvml(fake).close()
    assert fake.calls == ["nvmlInit", "nvmlShutdown"]


def test_closing_a_library_that_is_gone_is_quiet() -> None:
    fake = FakeNvml(nvmlShutdown=NVMLError("Uninitialized"))
    Nvml(fake).close()
    assert fake.calls[-1] == "nvmlShutdown"


@pytest.mark.parametrize("uuid", ["GPU-abc", "MIG-abc"])
def test_a_device_is_matched_by_its_uuid(uuid: str) -> None:
    fake = FakeNvml(uuid)
    Nvml(fake).device("abc").used_memory()
    assert fake.arguments["nvmlDeviceGetMemoryInfo"][0] == f"handle of {uuid}"


def test_a_device_that_nvml_does_not_know_is_unavailable() -> None:
    with pytest.raises(NvmlUnavailable) as caught:
        Nvml(FakeNvml("GPU-other")).device("abc")
    assert "no device with the UUID abc" in str(caught.value)
    assert "Not Found" in str(caught.value)


def test_readings_are_those_of_the_board() -> None:
    fake = FakeNvml()
    gpu = Nvml(fake).device("abc")
    assert gpu.used_memory()[0] == 10000
    assert gpu.sm_clock_mhz() == 1980
    assert gpu.temperature_c() == 45
    assert gpu.energy_mj() == 5000
    assert fake.arguments["nvmlDeviceGetClockInfo"][1] == pynvml.NVML_CLOCK_SM
    assert fake.arguments["nvmlDeviceGetTemperature"][1] == pynvml.NVML_TEMPERATURE_GPU


def test_reserved_memory_is_not_counted_as_used() -> None:
    answers: dict[int, Any] = {1: SimpleNamespace(used=10487), 2: SimpleNamespace(used=10000)}
    gpu = device(nvmlDeviceGetMemoryInfo=answers)
    assert gpu.used_memory() == (10000, NVML_USED)


def test_an_old_driver_is_read_in_the_old_way_under_its_own_name() -> None:
    answers: dict[int, Any] = {1: SimpleNamespace(used=10487), 2: NotSupported("Not Found")}
    assert device(nvmlDeviceGetMemoryInfo=answers).used_memory() == (10487, NVML_USED_AND_RESERVED)


def test_an_old_library_is_read_in_the_old_way_under_its_own_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(FakeNvml, "nvmlMemory_v2")
    answers: dict[int, Any] = {1: SimpleNamespace(used=10487)}
    assert device(nvmlDeviceGetMemoryInfo=answers).used_memory() == (10487, NVML_USED_AND_RESERVED)


def test_a_reading_of_zero_is_zero() -> None:
    gpu = device(nvmlDeviceGetTemperature=0, nvmlDeviceGetClockInfo=0, **{ENERGY: 0})
    assert (gpu.temperature_c(), gpu.sm_clock_mhz(), gpu.energy_mj()) == (0, 0, 0)


def test_readings_that_are_not_supported_are_null() -> None:
    names = [name for name in FakeNvml().answers if name.startswith("nvmlDevice")]
    gpu = device(**{name: NotSupported("Not Supported") for name in names})
    assert gpu.used_memory()[0] is None
    assert gpu.process_bytes() is None
    assert gpu.other_processes() is None
    assert gpu.throttle_reasons() is None
    assert gpu.sm_clock_mhz() is None
    assert gpu.temperature_c() is None
    assert gpu.energy_mj() is None


def test_our_memory_is_that_of_our_process() -> None:
    gpu = with_processes(process(OURS + 1, 7), process(OURS, 42))
    assert gpu.process_bytes() == 42
    assert gpu.other_processes() == 1


def test_alone_on_a_board_there_are_no_others() -> None:
    assert with_processes(process(OURS)).other_processes() == 0


def test_memory_of_a_process_may_be_hidden() -> None:
    gpu = with_processes(process(OURS, None))
    assert gpu.process_bytes() is None
    assert gpu.other_processes() == 0


def test_in_a_container_one_of_the_hosts_processes_is_ours() -> None:
    alone = with_processes(process(OURS + 1000))
    assert alone.process_bytes() is None
    assert alone.other_processes() == 0
    assert with_processes(process(OURS + 1000), process(OURS + 2000)).other_processes() == 1


def test_an_empty_list_of_processes_is_a_hidden_one() -> None:
    gpu = with_processes()
    assert gpu.process_bytes() is None
    assert gpu.other_processes() is None


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x0, "none"),
        (0x1, "none"),  # Idle.
        (0x2, "none"),  # Clocks set by an application.
        (0x4, "sw_power_cap"),
        (0x8, "hw_slowdown"),
        (0x10, "sync_boost"),
        (0x20, "sw_thermal_slowdown"),
        (0x40, "hw_thermal_slowdown"),
        (0x80, "hw_power_brake"),
        (0x100, "display_clock"),
        (0x4 | 0x20 | 0x1, "sw_power_cap+sw_thermal_slowdown"),
        (1 << 40, "none"),
    ],
)
def test_reasons_for_reduced_clocks_are_named(bits: int, reasons: str) -> None:
    assert device(**{EVENTS: bits}).throttle_reasons() == reasons


def test_the_bits_are_those_of_the_real_library() -> None:
    names = {
        "sw_power_cap": "SwPowerCap",
        "hw_slowdown": "HwSlowdown",
        "sync_boost": "SyncBoost",
        "sw_thermal_slowdown": "SwThermalSlowdown",
        "hw_thermal_slowdown": "HwThermalSlowdown",
        "hw_power_brake": "HwPowerBrakeSlowdown",
        "display_clock": "DisplayClockSetting",
    }
    real = {getattr(pynvml, f"nvmlClocksEventReason{end}"): name for name, end in names.items()}
    assert real == nvml_module._THROTTLE_REASONS


def test_an_older_library_has_the_older_name() -> None:
    fake = FakeNvml(**{THROTTLE: 0x4})
    del fake.answers[EVENTS]
    assert Nvml(fake).device("abc").throttle_reasons() == "sw_power_cap"


def test_an_older_driver_answers_to_the_older_name() -> None:
    gpu = device(**{EVENTS: NVMLError("Function Not Found"), THROTTLE: 0x8})
    assert gpu.throttle_reasons() == "hw_slowdown"


def test_the_newer_name_is_asked_first() -> None:
    assert device(**{EVENTS: 0x4, THROTTLE: 0x8}).throttle_reasons() == "sw_power_cap"
