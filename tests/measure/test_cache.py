"""The cache object: its size in closed form, and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from kvbench.measure.cache import (
    allocated_bytes,
    cache_bytes,
    cache_class,
    cache_layers,
    cache_tensors,
)
from kvbench.models.load import LoadedModel
from kvbench.theory.cache import cache_bytes_per_token
from tests.tiny import GPT2, LLAMA, MISTRAL, T5, config_folder, inputs_of, load, run

FLOAT = 4
LAYERS = 2
HEAD_DIM = 16
SHAPES = [(1, 1, 1), (1, 5, 1), (1, 5, 2), (2, 5, 17), (3, 9, 40)]
shapes = pytest.mark.parametrize(("batch_size", "prompt", "count"), SHAPES)


class FakeLayer:
    """Keys, values and whatever else a layer carries."""

    def __init__(self, **attributes: Any) -> None:
        self.keys = torch.zeros(2, 3)
        self.values = torch.zeros(2, 3)
        vars(self).update(attributes)


class FakeCache:
    """Layers and whatever else a cache carries."""

    def __init__(self, *layers: FakeLayer, **attributes: Any) -> None:
        self.layers = list(layers)
        vars(self).update(attributes)


class Packed(torch.Tensor):
    """A tensor that packs four numbers per byte, as those of quantizing packages do."""

    @staticmethod
    def __new__(cls, data: torch.Tensor, scale: torch.Tensor) -> Packed:
        shown = (*data.shape[:-1], 4 * data.shape[-1])
        one: Packed = torch.Tensor._make_wrapper_subclass(cls, shown, dtype=scale.dtype)
        one.data_, one.scale_ = data, scale
        return one

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["data_", "scale_"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, *_: Any) -> Packed:
        return Packed(inner["data_"], inner["scale_"])


def test_a_cache_may_say_itself_what_a_step_attends_to() -> None:
    cache = FakeCache(FakeLayer(), kv_cache_bytes=7)
    assert (cache_bytes(cache), allocated_bytes(cache)) == (7, FAKE_BYTES)


def test_a_packed_tensor_counts_by_what_it_holds() -> None:
    packed = Packed(torch.zeros(6, 5, dtype=torch.uint8), torch.zeros(6, 1))
    cache = FakeCache(FakeLayer(_quantized_keys=packed))
    assert cache_bytes(cache) == allocated_bytes(cache) == FAKE_BYTES + 6 * 5 + 6 * FLOAT


FAKE_BYTES = 2 * 2 * 3 * FLOAT


def cache_after(loaded: LoadedModel, batch_size: int, prompt: int, count: int) -> Any:
    inputs = inputs_of(loaded, [list(range(10, 10 + prompt))] * batch_size)
    return run(loaded, inputs, "dynamic", count).cache


def keys_and_values(batch_size: int, heads: int, positions: int) -> int:
    """Bytes of the keys and values of both layers in float32."""
    return 2 * LAYERS * batch_size * heads * positions * HEAD_DIM * FLOAT


@shapes
def test_gpt2_keeps_all_but_the_last_position(
    tmp_path: Path, batch_size: int, prompt: int, count: int
) -> None:
    cache = cache_after(load(config_folder(tmp_path, GPT2)), batch_size, prompt, count)
    assert cache_bytes(cache) == keys_and_values(batch_size, 4, prompt + count - 1)


@shapes
def test_grouped_heads_are_kept_once(
    tmp_path: Path, batch_size: int, prompt: int, count: int
) -> None:
    cache = cache_after(load(config_folder(tmp_path, LLAMA)), batch_size, prompt, count)
    assert cache_bytes(cache) == keys_and_values(batch_size, 2, prompt + count - 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_theory_says_what_the_tensors_are(
    tmp_path: Path, config: dict[str, Any], dtype: str
) -> None:
    loaded = load(config_folder(tmp_path, config), dtype=dtype)
    per_token = cache_bytes_per_token(config, dtype)
    assert cache_bytes(cache_after(loaded, 3, 5, 7)) == per_token * 3 * (5 + 7 - 1)


@pytest.mark.parametrize(
    ("prompt", "count", "positions"),
    [(3, 2, 4), (3, 5, 7), (3, 6, 7), (3, 40, 7), (20, 1, 7), (20, 9, 7)],
)
def test_a_window_keeps_one_position_less_than_it_sees(
    tmp_path: Path, prompt: int, count: int, positions: int
) -> None:
    # Window 8: the new token and the seven before it.
    cache = cache_after(load(config_folder(tmp_path, MISTRAL)), 2, prompt, count)
    assert cache_bytes(cache) == keys_and_values(2, 2, positions)


@shapes
def test_t5_keeps_its_own_positions_and_those_of_the_prompt(
    tmp_path: Path, batch_size: int, prompt: int, count: int
) -> None:
    cache = cache_after(load(config_folder(tmp_path, T5)), batch_size, prompt, count)
    # The decoder has one start token before the new ones.
    own, cross = 1 + count - 1, prompt
    assert cache_bytes(cache) == keys_and_values(batch_size, 4, own + cross)


def test_no_cache_is_nothing() -> None:
    assert cache_bytes(None) == 0
    assert cache_class(None) is None
    assert cache_layers(None) is None
    assert list(cache_tensors(None)) == []


def test_an_empty_cache_has_no_bytes() -> None:
    assert cache_bytes(DynamicCache()) == 0
    assert cache_class(DynamicCache()) == "DynamicCache"


@pytest.mark.parametrize(
    ("config", "name", "layers"),
    [
        (GPT2, "DynamicCache", "DynamicLayer x2"),
        (LLAMA, "DynamicCache", "DynamicLayer x2"),
        (MISTRAL, "DynamicCache", "DynamicSlidingWindowLayer x2"),
        (T5, "EncoderDecoderCache", "DynamicLayer x4"),
    ],
    ids=["gpt2", "llama", "mistral", "t5"],
)
def test_classes_are_those_really_used(
    tmp_path: Path, config: dict[str, Any], name: str, layers: str
) -> None:
    cache = cache_after(load(config_folder(tmp_path, config)), 1, 5, 3)
    assert cache_class(cache) == name
    assert cache_layers(cache) == layers


def test_layers_of_several_classes_are_counted_apart() -> None:
    other = type("AnotherLayer", (FakeLayer,), {})
    cache = FakeCache(FakeLayer(), other(), FakeLayer())
    assert cache_layers(cache) == "AnotherLayer x1, FakeLayer x2"


def test_all_tensors_of_a_layer_count() -> None:
    state = {"conv": torch.zeros(5, 7), "more": [torch.zeros(1, 1, dtype=torch.bfloat16)]}
    assert cache_bytes(FakeCache(FakeLayer())) == FAKE_BYTES
    assert cache_bytes(FakeCache(FakeLayer(state=state))) == FAKE_BYTES + 5 * 7 * FLOAT + 2


def test_bookkeeping_scalars_do_not_count() -> None:
    layer = FakeLayer(window=torch.tensor(8), seen=torch.zeros(1, dtype=torch.int64), length=12)
    assert cache_bytes(FakeCache(layer)) == FAKE_BYTES


def test_a_tensor_counts_once() -> None:
    layer = FakeLayer()
    cache = FakeCache(layer, layer, again=layer.keys)
    assert cache_bytes(cache) == FAKE_BYTES


def test_a_cache_that_refers_to_itself_is_walked_once() -> None:
    layer = FakeLayer()
    cache = FakeCache(layer)
    vars(layer)["cache"] = cache
    assert cache_bytes(cache) == FAKE_BYTES


class BigLayer(torch.nn.Linear):
    """A module whose name looks like that of a layer of a cache."""


def test_a_model_behind_a_cache_does_not_count() -> None:
    modules = [torch.nn.Linear(100, 100), BigLayer(100, 100)]
    cache = FakeCache(FakeLayer(module=modules[1]), model=modules[0], modules=modules)
    assert cache_bytes(cache) == FAKE_BYTES


def test_a_configuration_behind_a_cache_does_not_count() -> None:
    holder = type("SomeConfig", (), {})()
    holder.table = torch.zeros(10, 10)
    assert cache_bytes(FakeCache(FakeLayer(), config=holder)) == FAKE_BYTES
