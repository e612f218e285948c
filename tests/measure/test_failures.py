"""Failures: what an exception means for a sample, and its one-line message."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvbench.errors import UserError
from kvbench.measure.failures import Failure, classify

# More than any address space: it fails at once and allocates nothing.
ABSURD = 2**46


def raised_by_torch() -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(ABSURD)
    return caught.value


def test_torch_out_of_memory_on_the_cpu_is_oom() -> None:
    failure = classify(raised_by_torch())
    assert failure.status == "oom"
    assert failure.error.startswith("RuntimeError: ")
    assert failure.oom_bytes == ABSURD * 4


def test_python_out_of_memory_is_oom() -> None:
    with pytest.raises(MemoryError) as caught:
        bytearray(ABSURD)
    assert classify(caught.value) == Failure("oom", "MemoryError: ")


def test_numpy_out_of_memory_is_oom() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(ABSURD)
    failure = classify(caught.value)
    assert failure.status == "oom"
    assert "Unable to allocate" in failure.error


def test_cuda_out_of_memory_is_oom() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert classify(error) == Failure(
        "oom",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        oom_bytes=20 << 20,
    )


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_memory_that_cuda_lacks_outside_the_allocator_is_oom(text: str) -> None:
    # torch.AcceleratorError and a plain RuntimeError, as CUDA's runtime and cuBLAS raise them.
    failure = classify(RuntimeError(text))
    assert (failure.status, failure.oom_bytes) == ("oom", None)


def test_a_user_error_is_unsupported_and_says_only_its_sentence() -> None:
    assert classify(UserError("Give a smaller one.")) == Failure(
        "unsupported", "Give a smaller one."
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ValueError("bad value"),
        IndexError("index out of range in self"),
        OSError("not enough memory"),
    ],
)
def test_any_other_error_is_a_crash_with_its_name(error: Exception) -> None:
    assert classify(error) == Failure("crashed", f"{type(error).__name__}: {error}")


def test_an_error_is_one_line() -> None:
    assert classify(ValueError("one\n  two\t three")).error == "ValueError: one two three"


def test_a_long_error_is_clipped() -> None:
    text = classify(RuntimeError("x" * 10_000)).error
    assert text == "RuntimeError: " + "x" * 497 + "..."


def test_memory_is_found_in_a_long_error() -> None:
    said = " DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."
    failure = classify(RuntimeError("x" * 600 + said))
    # The row has a clipped sentence; the bytes are read from the whole message.
    assert (failure.status, failure.oom_bytes) == ("oom", 4096)
    assert "4096" not in failure.error


def test_an_error_without_words_keeps_its_name() -> None:
    failure = classify(KeyError())
    assert failure.status == "crashed"
    assert failure.error.startswith("KeyError")
