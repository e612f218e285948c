"""Tests of kvbench/records/changes.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvbench.records.changes import Change, environment_changes
from tests.fakes import make_environment, make_rates

CPU, CUDA = ("cpu",), ("cpu", "cuda")


def differences(devices_used: tuple[str, ...] = CPU, **fields: Any) -> list[Change]:
    return environment_changes(make_environment(), make_environment(**fields), devices_used)


def test_the_same_machine_has_not_changed() -> None:
    assert differences() == differences(CUDA) == []


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"cpu": "Other"}, Change("cpu", "Some CPU", "Other")),
        ({"python": "3.12.0"}, Change("python", "3.11.7", "3.12.0")),
        ({"platform": "Linux-6.2"}, Change("platform", "Linux-6.1", "Linux-6.2")),
        ({"driver": "550.54"}, Change("driver", "none", "550.54")),
        ({"cuda": "12.8"}, Change("cuda", "none", "12.8")),
        ({"threads": 1}, Change("threads", "2", "1")),
        ({"usable_cpus": 1}, Change("usable_cpus", "2", "1")),
        ({"governor": "performance"}, Change("governor", "none", "performance")),
    ],
)
def test_what_is_otherwise_on_the_machine_is_told(fields: dict[str, Any], line: Change) -> None:
    assert differences(**fields) == [line]


@pytest.mark.parametrize(
    ("versions", "line"),
    [
        ({"torch": "2.14.0"}, Change("torch", "2.13.0", "2.14.0")),
        ({"transformers": "5.17.0"}, Change("transformers", "5.23.0", "5.17.0")),
        ({"numpy": "3"}, Change("numpy", "none", "3")),
    ],
)
def test_another_version_is_told(versions: dict[str, str], line: Change) -> None:
    assert differences(versions=make_environment().versions | versions) == [line]


def test_a_package_that_is_gone_is_told() -> None:
    left = {"kvbench": "0.1.0", "torch": "2.13.0"}
    assert differences(versions=left) == [Change("transformers", "5.23.0", "none")]


def test_a_newer_probe_is_no_change() -> None:
    assert differences(rates=(make_rates(),)) == []
    old, new = (make_environment(rates=(make_rates(read_bytes_per_s=r),)) for r in (1e9, 2e9))
    assert environment_changes(old, new, CPU) == []


def test_what_moves_at_each_start_is_no_change() -> None:
    assert differences(memory_bytes=1, missing=("None.",), absent={"cuda": "None."}) == []
    cpu, gpu = make_environment().devices
    grown = dataclasses.replace(cpu, memory_bytes=1)
    assert differences(devices=(grown, gpu)) == []


@pytest.mark.parametrize(
    ("gpu", "now"),
    [
        ({"hardware": "Other GPU"}, "Other GPU a-b"),
        ({"uuid": "c-d"}, "Some GPU c-d"),
        (None, "none"),
    ],
    ids=["model", "uuid", "gone"],
)
def test_another_gpu_is_told_where_a_case_runs_on_it(gpu: dict[str, str] | None, now: str) -> None:
    cpu, cuda = make_environment().devices
    devices = (cpu,) if gpu is None else (cpu, dataclasses.replace(cuda, **gpu))
    assert differences(CUDA, devices=devices) == [Change("cuda", "Some GPU a-b", now)]
    assert differences(CPU, devices=devices) == []
