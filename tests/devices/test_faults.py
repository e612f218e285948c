"""Faults: which exceptions are the machine's, and which are not."""

from __future__ import annotations

import pytest
import torch

from kvbench.devices.faults import bytes_asked_for, is_device_fault, is_out_of_memory
from kvbench.errors import UserError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_ran_out_is_told_apart(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.", 4096),
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity", 20 << 20),
        ("CUDA out of memory. Tried to allocate 1.50 GiB.", 3 << 29),
        ("CUDA out of memory. Tried to allocate 2.00 KiB.", 2 << 10),
        ("CUDA out of memory. Tried to allocate 512 bytes.", 512),
        ("CUDA out of memory. Tried to allocate 1.00 TiB.", 1 << 40),
        ("CUDA error: out of memory", None),
        ("", None),
    ],
)
def test_the_bytes_are_those_that_the_message_says(text: str, size: int | None) -> None:
    assert bytes_asked_for(RuntimeError(text)) == size


def test_the_bytes_that_torch_was_asked_for_are_read() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert bytes_asked_for(caught.value) == 2**48


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        RuntimeError("CUDA error: device-side assert triggered"),
        # Raised by something other than an allocator.
        OSError("not enough memory"),
        UserError("not enough memory"),
    ],
)
def test_other_errors_are_not_about_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`.",
        "CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    ],
)
def test_a_device_that_gave_up_is_told_apart(text: str) -> None:
    assert is_device_fault(RuntimeError(text))
    assert not is_device_fault(ValueError(text))


def test_an_error_of_a_model_is_not_the_devices() -> None:
    assert not is_device_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_device_fault(IndexError("index out of range in self"))
