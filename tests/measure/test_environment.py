"""The environment: facts about the machine, and a sentence for each missing thing."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import transformers

from kvbench.devices import cuda, host, rapl
from kvbench.devices.nvml import Nvml
from kvbench.devices.registry import describe_device
from kvbench.measure import environment
from kvbench.measure.environment import read_environment
from kvbench.records.rates import STATE_VARIABLE, Rates, keep_rates
from tests.devices.fake_nvml import FakeNvml, NVMLError
from tests.fakes import make_rates


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither a driver nor a CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(rapl, "_POWERCAP", Path("no-such-folder"))
    driver(monkeypatch, FakeNvml(nvmlInit=NVMLError("Library Not Found")))


def driver(monkeypatch: pytest.MonkeyPatch, fake: FakeNvml) -> None:
    monkeypatch.setattr(cuda, "Nvml", lambda: Nvml(fake))


@pytest.mark.usefixtures("bare")
def test_what_is_missing_is_told_in_sentences() -> None:
    found = read_environment()
    missing = {sentence.split(":")[0]: sentence for sentence in found.missing}
    assert "Library Not Found" in missing["NVML"]
    assert missing["CUDA"].endswith(".")
    assert (found.driver, found.nvml) == (None, None)


@pytest.mark.usefixtures("bare")
def test_a_machine_without_a_gpu_still_has_a_processor() -> None:
    found = read_environment()
    assert [device.name for device in found.devices] == ["cpu"]
    cpu = found.devices[0]
    assert cpu.hardware == found.cpu != ""
    assert cpu.memory_bytes == found.memory_bytes == psutil.virtual_memory().total
    assert (cpu.uuid, cpu.compute_capability) == (None, None)


@pytest.mark.usefixtures("bare")
def test_fields_are_those_of_this_process() -> None:
    found = read_environment()
    assert found.platform == platform.platform()
    assert found.python == platform.python_version()
    assert found.threads == torch.get_num_threads()
    assert found.logical_cpus == psutil.cpu_count()
    assert 1 <= found.usable_cpus <= found.logical_cpus
    assert found.cuda == torch.version.cuda


@pytest.mark.usefixtures("bare")
def test_versions_are_those_installed() -> None:
    versions = read_environment().versions
    assert versions["torch"] == torch.__version__
    assert versions["transformers"] == transformers.__version__
    assert {"kvbench", "numpy", "nvidia-ml-py"} <= set(versions)


@pytest.mark.usefixtures("bare")
def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("torch", "kvbench-test-no-such-package"))
    monkeypatch.setattr(environment, "PACKAGES", ())
    assert set(read_environment().versions) == {"kvbench", "torch"}


@pytest.mark.usefixtures("bare")
def test_an_environment_is_plain_data() -> None:
    found = asdict(read_environment())
    assert json.loads(json.dumps(found))["python"] == platform.python_version()


@pytest.mark.usefixtures("bare")
def test_a_governor_and_a_mark_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_governor", lambda: None)
    monkeypatch.setattr(host, "high_water_mark_works", lambda: False)
    starts = {sentence.split(":")[0] for sentence in read_environment().missing}
    assert starts == {"CUDA", "NVML", "CPU governor", "Peak memory", "CPU energy"}


@pytest.mark.usefixtures("bare")
def test_a_governor_and_a_mark_that_are_there_are_not_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "cpu_governor", lambda: "performance")
    monkeypatch.setattr(host, "high_water_mark_works", lambda: True)
    found = read_environment()
    assert found.governor == "performance"
    assert {sentence.split(":")[0] for sentence in found.missing} == {
        "CUDA",
        "NVML",
        "CPU energy",
    }


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    driver(monkeypatch, fake)
    properties = SimpleNamespace(name="Fake 9", total_memory=80, uuid="abc", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = read_environment()
    gpu = found.devices[1]
    assert (gpu.name, gpu.hardware, gpu.memory_bytes) == ("cuda", "Fake 9", 80)
    assert (gpu.uuid, gpu.compute_capability) == ("abc", "9.0")
    assert (found.driver, found.nvml) == ("580.1", "13.580.1")
    assert not {"CUDA", "NVML"} & {sentence.split(":")[0] for sentence in found.missing}
    assert fake.calls[-1] == "nvmlShutdown"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty folder for stored probes."""
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    return tmp_path


def of_this_machine(**fields: Any) -> Rates:
    hardware = describe_device("cpu").hardware
    return make_rates(**({"hardware": hardware, "threads": torch.get_num_threads()} | fields))


@pytest.mark.usefixtures("bare", "store")
def test_what_was_probed_here_is_known() -> None:
    assert read_environment().rates == ()
    keep_rates(of_this_machine())
    assert read_environment().rates == (of_this_machine(),)


@pytest.mark.usefixtures("bare", "store")
@pytest.mark.parametrize(
    "other",
    [
        {"hardware": "Another CPU"},
        {"threads": torch.get_num_threads() + 1},
        {"device": "cuda", "threads": None, "uuid": "a-b"},
    ],
    ids=["processor", "threads", "gpu"],
)
def test_what_was_probed_elsewhere_is_not_of_this_machine(other: dict[str, Any]) -> None:
    keep_rates(of_this_machine(**other))
    assert read_environment().rates == ()


@pytest.mark.usefixtures("bare")
def test_a_damaged_store_is_missing_and_ends_nothing(store: Path) -> None:
    (store / "rates.json").write_text("{")
    found = read_environment()
    assert found.rates == ()
    (sentence,) = (line for line in found.missing if line.startswith("Rates: "))
    assert "is damaged" in sentence and sentence.endswith("run `kvbench probe` again.")


@pytest.mark.usefixtures("store")
def test_a_gpu_is_known_by_its_uuid_under_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, FakeNvml())
    properties = SimpleNamespace(name="Fake 9", total_memory=80, uuid="abc", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    for name, uuid, rate in (("cuda", "other", 1e12), ("cuda:1", "abc", 2e12)):
        keep_rates(
            make_rates(
                device=name, hardware="Fake 9", uuid=uuid, threads=None, read_bytes_per_s=rate
            )
        )
    (rates,) = read_environment().rates
    assert (rates.device, rates.uuid, rates.read_bytes_per_s) == ("cuda", "abc", 2e12)


@pytest.mark.usefixtures("bare")
def test_the_governor_is_that_of_the_host() -> None:
    assert read_environment().governor == host.cpu_governor()
