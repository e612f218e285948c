"""Entries and backends: each kind has both, and their answers have the right form."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import psutil
import pytest
import torch

from kvbench.device_kinds import HOST, KINDS, DeviceKind, first_name, is_device_name, kind_of
from kvbench.devices import host
from kvbench.devices.backend import Backend, Level
from kvbench.devices.faults import is_device_fault
from kvbench.devices.meter import Readings
from kvbench.devices.registry import (
    backend_of,
    backends,
    describe_device,
    present_devices,
    release_memory,
)
from kvbench.errors import UserError
from kvbench.measure.environment import read_environment
from kvbench.plan.plan import Plan, choose_devices
from kvbench.records.rates import _key_of
from kvbench.records.sample import Sample
from kvbench.run.warmup import scope_of
from kvbench.theory.peaks import rates_named
from tests.tiny import case

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


def bfloat16(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    """Make a GPU with or without native bfloat16."""

    class Entered:
        def __init__(self, device: torch.device) -> None:
            assert device == CUDA

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "device", Entered)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)


def test_each_kind_has_a_backend_that_answers_everything() -> None:
    answers = {name for name in vars(Backend) if not name.startswith("_")}
    assert len(backends()) == len(KINDS)
    for backend in backends():
        for name in answers:
            wanted = inspect.signature(getattr(Backend, name)).parameters
            have = inspect.signature(getattr(type(backend), name)).parameters
            assert list(have) == list(wanted), f"{type(backend).__name__}.{name}"


def test_a_device_and_its_name_have_one_backend() -> None:
    assert backend_of("cuda:1") is backend_of(CUDA) is backend_of("cuda")
    assert backend_of("cpu") is backend_of(CPU) is not backend_of("cuda")


def test_there_is_one_host_and_it_is_always_present() -> None:
    assert [kind.name for kind in KINDS.values() if kind.is_host] == [HOST]
    assert present_devices()[0] == HOST
    assert describe_device(HOST).memory_bytes == psutil.virtual_memory().total


def test_the_kind_is_the_first_part_of_a_name() -> None:
    assert kind_of("cuda:12") is KINDS["cuda"]
    assert kind_of("cpu") is KINDS["cpu"]


def test_a_kind_that_is_not_known_is_taken_for_an_accelerator() -> None:
    # Reporting on a run of a later version still works.
    assert kind_of("xpu:1") == DeviceKind(name="xpu")
    assert not kind_of("xpu").is_host
    assert not is_device_name("xpu") and is_device_name("cuda:7")


@pytest.mark.parametrize(
    ("name", "first"),
    [("cuda:0", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu"), ("auto", "auto")],
)
def test_the_first_of_a_kind_has_one_name(name: str, first: str) -> None:
    assert first_name(name) == first


def test_each_reading_is_a_column_of_a_sample() -> None:
    columns = {field.name for field in dataclasses.fields(Sample)}
    readings = {field.name for field in dataclasses.fields(Readings)}
    assert readings <= columns
    assert all(value is None for value in dataclasses.asdict(Readings()).values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_cpu_takes_every_dtype(dtype: str) -> None:
    assert backend_of(CPU).lacks(dtype, CPU) is None


def test_an_emulated_dtype_is_one_that_a_gpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16(monkeypatch, supported=False)
    assert backend_of(CUDA).lacks("bfloat16", CUDA) == (
        "dtype: Tesla T4 (cuda:1) has no bfloat16: use float16 or float32."
    )
    assert backend_of(CUDA).lacks("float16", CUDA) is None
    bfloat16(monkeypatch, supported=True)
    assert backend_of(CUDA).lacks("bfloat16", CUDA) is None


def test_memory_of_a_gpu_is_that_of_its_driver_and_its_allocator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: dict[str, Any] = {
        "mem_get_info": (70, 80),
        "memory_reserved": 30,
        "memory_allocated": 20,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    backend = backend_of(CUDA)
    assert (backend.free_bytes(CUDA), backend.reusable_bytes(CUDA)) == (70, 10)
    assert backend.level(CUDA) == Level(allocated=20)


def test_memory_of_a_cpu_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=1234)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(host, "rss_bytes", lambda: 99)
    backend = backend_of(CPU)
    assert (backend.free_bytes(CPU), backend.reusable_bytes(CPU)) == (1234, 0)
    assert backend.level(CPU) == Level(resident=99)


def test_memory_is_given_back_on_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(host, "release_memory", lambda: calls.append("host"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("cuda"))
    release_memory()
    # Garbage is collected first: what it frees can then be given back.
    assert calls == ["host", "cuda"]


def test_a_new_kind_is_one_entry_and_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = DeviceKind(
        name="dummy",
        backend="tests.devices.dummy:DummyBackend",
        memory_label="DRAM",
        half_needs_full_warmup=False,
    )
    monkeypatch.setitem(KINDS, "dummy", kind)
    assert present_devices()[-2:] == ("dummy", "dummy:1")
    assert Plan(device=["auto"]).needs_devices()
    assert choose_devices(["auto", "dummy:0"], ("cpu", "dummy")) == ("cpu", "dummy")
    assert is_device_fault(RuntimeError("DUMMY_BROKEN"))
    assert "dummy" in [device.name for device in read_environment().devices]
    half = case("gpt2", device="dummy:1", dtype="bfloat16")
    assert scope_of(half, "auto") == "short"
    assert _key_of("dummy", "D", "uuid", 4) == ("dummy", "D", "uuid")
    with pytest.raises(UserError) as caught:
        rates_named(["dummy:1"])
    assert caught.value.kind == "not_probed"
