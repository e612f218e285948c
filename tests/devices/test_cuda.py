"""Devices: their names, and why there is no CUDA."""

from __future__ import annotations

import pytest
import torch

from kvbench.devices.cuda import why_no_cuda
from kvbench.devices.registry import present_devices


def cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "names"),
    [(0, ("cpu",)), (1, ("cpu", "cuda")), (3, ("cpu", "cuda", "cuda:1", "cuda:2"))],
)
def test_devices_have_names(
    monkeypatch: pytest.MonkeyPatch, count: int, names: tuple[str, ...]
) -> None:
    cuda(monkeypatch, count)
    assert present_devices() == names


def test_names_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(monkeypatch, 2)
    assert [torch.device(name).type for name in present_devices()] == ["cpu", "cuda", "cuda"]


def test_with_cuda_there_is_nothing_to_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(monkeypatch, 1)
    assert why_no_cuda() is None


def test_a_torch_without_cuda_is_told_from_a_machine_without_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without it" in (why_no_cuda() or "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "found no usable device" in (why_no_cuda() or "")
    assert "13.0" in (why_no_cuda() or "")
