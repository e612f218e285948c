"""Tests of kvbench/measure/verify/float32.py: to float32 and back, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from kvbench.measure.verify import arms, verify
from kvbench.measure.verify.float32 import in_float32
from kvbench.models.load import LoadedModel
from tests.measure import verify_faults as faults
from tests.tiny import GPT2, LLAMA, config_folder, load

DTYPES = ["bfloat16", "float16"]


@pytest.fixture(params=DTYPES)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    """Return GPT-2 in a coarse dtype: its output shares the weights of its input."""
    return load(config_folder(tmp_path, GPT2), dtype=request.param)


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    named = [*model.named_parameters(remove_duplicate=False)]
    return dict([*named, *model.named_buffers(remove_duplicate=False)])


def bits(model: torch.nn.Module) -> dict[str, tuple[torch.dtype, bytes]]:
    return {
        name: (tensor.dtype, tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors(model).items()
    }


def dtype_of(loaded: LoadedModel) -> torch.dtype:
    return next(loaded.model.parameters()).dtype


def is_tied(loaded: LoadedModel) -> bool:
    into, out = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    pointers = [layer.weight.data_ptr() for layer in (into, out)]
    return into.weight is out.weight and pointers[0] == pointers[1]


def test_inside_all_weights_are_float32_and_equal(loaded: LoadedModel) -> None:
    dtype = dtype_of(loaded)
    before = {name: tensor.clone() for name, tensor in tensors(loaded.model).items()}
    with in_float32(loaded.model, dtype):
        for name, tensor in tensors(loaded.model).items():
            assert tensor.dtype == torch.float32 or not tensor.is_floating_point()
            assert torch.equal(tensor, before[name].to(tensor.dtype))
        assert is_tied(loaded)


def test_outside_they_are_what_they_were(loaded: LoadedModel) -> None:
    before, dtype = bits(loaded.model), dtype_of(loaded)
    with in_float32(loaded.model, dtype):
        pass
    assert bits(loaded.model) == before
    assert dtype_of(loaded) == dtype != torch.float32
    assert is_tied(loaded)


def test_they_come_back_after_an_error(loaded: LoadedModel) -> None:
    before = bits(loaded.model)
    with pytest.raises(ValueError, match="boom"), in_float32(loaded.model, dtype_of(loaded)):
        raise ValueError("boom")
    assert bits(loaded.model) == before
    assert is_tied(loaded)


def test_they_come_back_when_the_cast_itself_fails(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, dtype = bits(loaded.model), dtype_of(loaded)
    real, casts = torch.Tensor.to, []

    def failing(self: torch.Tensor, *args: object) -> torch.Tensor:
        casts.append(args)
        if len(casts) == 5:
            raise MemoryError("half-way")
        return real(self, *args)

    monkeypatch.setattr(torch.Tensor, "to", failing)
    with pytest.raises(MemoryError, match="half-way"), in_float32(loaded.model, dtype):
        raise AssertionError("the block must not be entered")
    monkeypatch.undo()
    assert len(casts) == 9  # Four there, one that failed, four back.
    assert bits(loaded.model) == before
    assert is_tied(loaded)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_number_there_is_survives(dtype: str) -> None:
    # All 65536 bit patterns except those of NaN, which no weight is.
    kind = getattr(torch, dtype)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(kind)
    holder = torch.nn.Module()
    holder.register_buffer("every", every[~every.isnan()].clone())
    before = bits(holder)
    with in_float32(holder, kind):
        assert holder.every.dtype == torch.float32
    assert bits(holder) == before


def test_what_was_float32_already_is_not_touched(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, LLAMA), dtype="bfloat16")
    kept = [tensor for tensor in loaded.model.buffers() if tensor.dtype == torch.float32]
    assert kept  # The rotary frequencies.
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in kept]
    with in_float32(loaded.model, torch.bfloat16):
        assert [tensor.data_ptr() for tensor in kept] == [pointer for pointer, _ in before]
    for tensor, (pointer, values) in zip(kept, before, strict=True):
        assert (tensor.data_ptr(), tensor.dtype) == (pointer, torch.float32)
        assert torch.equal(tensor, values)


def test_parameters_that_share_memory_go_on_sharing_it() -> None:
    whole = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    model = torch.nn.ParameterDict(
        {
            "whole": torch.nn.Parameter(whole),
            "again": torch.nn.Parameter(whole),
            "turned": torch.nn.Parameter(whole.T),
            "row": torch.nn.Parameter(whole[1]),
        }
    )
    for inside in (True, False):
        with in_float32(model, torch.bfloat16):
            assert model["row"].dtype == torch.float32
            if inside:
                assert_shared(model, whole.float())
        assert_shared(model, whole)


def assert_shared(model: torch.nn.ParameterDict, whole: torch.Tensor) -> None:
    assert torch.equal(model["whole"], whole)
    assert torch.equal(model["turned"], whole.T)
    with torch.no_grad():
        model["row"][2] += 50
    for value in (model["whole"][1, 2], model["again"][1, 2], model["turned"][2, 1]):
        assert value == whole[1, 2] + 50
    with torch.no_grad():
        model["row"][2] -= 50


def test_a_model_in_float32_is_left_alone(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, GPT2))
    pointers = [tensor.data_ptr() for tensor in loaded.model.parameters()]
    with in_float32(loaded.model, torch.float32):
        assert [tensor.data_ptr() for tensor in loaded.model.parameters()] == pointers


def test_too_little_memory_is_told_before_anything_is_cast(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointers = [tensor.data_ptr() for tensor in loaded.model.parameters()]
    memory = psutil.virtual_memory()._replace(available=2**10)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with (
        pytest.raises(MemoryError, match=r"need 0\.0 GiB more, and cpu has 0\.0 GiB free"),
        in_float32(loaded.model, dtype_of(loaded)),
    ):
        raise AssertionError("the block must not be entered")
    assert [tensor.data_ptr() for tensor in loaded.model.parameters()] == pointers


@pytest.mark.parametrize("broken", [False, True], ids=["healthy", "raising"])
def test_verifying_leaves_the_weights_as_they_were(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    before = bits(loaded.model)
    if broken:
        faults.fail_with(RuntimeError("broken"))(monkeypatch)
    checks = verify(loaded, "dynamic", new_tokens=4, generations=1)
    assert ("fail" in {check.verdict for check in checks}) is broken
    assert bits(loaded.model) == before
    assert is_tied(loaded)


@pytest.mark.parametrize("fault", [True, False], ids=["of the device", "other"])
def test_weights_that_do_not_come_back_are_a_row_only_where_the_device_is_dead(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, fault: bool
) -> None:
    error = RuntimeError("CUDA error: an illegal memory access" if fault else "half a model")

    @contextlib.contextmanager
    def leaving(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
        with in_float32(model, dtype):
            yield
        raise error

    monkeypatch.setattr(arms, "in_float32", leaving)
    if not fault:
        with pytest.raises(RuntimeError, match="half a model"):
            verify(loaded, "dynamic", new_tokens=4, generations=1)
        return
    checks = verify(loaded, "dynamic", new_tokens=4, generations=1)
    told = {check.detail for check in checks if check.verdict == "inconclusive"}
    assert told == {"RuntimeError: CUDA error: an illegal memory access"}
    assert {check.check for check in checks if check.verdict == "inconclusive"} == {
        "tokens",
        "logits",
    }
