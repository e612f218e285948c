"""Tests of kvbench/records/changes.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvbench.records.changes import environment_changes
from tests.fakes import make_environment, make_rates

CPU, CUDA = ("cpu",), ("cpu", "cuda")


def differences(devices_used: tuple[str, ...] = CPU, **fields: Any) -> list[str]:
    return environment_changes(make_environment(), make_environment(**fields), devices_used)


def test_the_same_machine_has_not_changed() -> None:
    assert differences() == differences(CUDA) == []


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"cpu": "Other"}, "cpu: Some CPU before, Other now"),
        ({"python": "3.12.0"}, "python: 3.11.7 before, 3.12.0 now"),
        ({"platform": "Linux-6.2"}, "platform: Linux-6.1 before, Linux-6.2 now"),
        ({"driver": "550.54"}, "driver: none before, 550.54 now"),
        ({"cuda": "12.8"}, "cuda: none before, 12.8 now"),
        ({"threads": 1}, "threads: 2 before, 1 now"),
        ({"usable_cpus": 1}, "usable_cpus: 2 before, 1 now"),
        ({"governor": "performance"}, "governor: none before, performance now"),
    ],
)
def test_what_is_otherwise_on_the_machine_is_told(fields: dict[str, Any], line: str) -> None:
    assert differences(**fields) == [line]


@pytest.mark.parametrize(
    ("versions", "line"),
    [
        ({"torch": "2.14.0"}, "torch: 2.13.0 before, 2.14.0 now"),
        ({"transformers": "5.17.0"}, "transformers: 5.23.0 before, 5.17.0 now"),
        ({"numpy": "3"}, "numpy: none before, 3 now"),
    ],
)
def test_another_version_is_told(versions: dict[str, str], line: str) -> None:
    assert differences(versions=make_environment().versions | versions) == [line]


def test_a_package_that_is_gone_is_told() -> None:
    left = {"kvbench": "0.1.0", "torch": "2.13.0"}
    assert differences(versions=left) == ["transformers: 5.23.0 before, none now"]


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
    ("gpu", "line"),
    [
        ({"hardware": "Other GPU"}, "Some GPU a-b before, Other GPU a-b"),
        ({"uuid": "c-d"}, "Some GPU a-b before, Some GPU c-d"),
        (None, "Some GPU a-b before, none"),
    ],
    ids=["model", "uuid", "gone"],
)
def test_another_gpu_is_told_where_a_case_runs_on_it(gpu: dict[str, str] | None, line: str) -> None:
    cpu, cuda = make_environment().devices
    devices = (cpu,) if gpu is None else (cpu, dataclasses.replace(cuda, **gpu))
    assert differences(CUDA, devices=devices) == [f"cuda: {line} now"]
    assert differences(CPU, devices=devices) == []
