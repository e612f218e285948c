"""What only one of the hand-written caches does, and the bytes that each copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Cache, DynamicCache

from kvbench.caches import strategy
from kvbench.measure.cache import allocated_bytes, cache_bytes, cache_layers, disk_bytes
from kvbench.measure.caches import Call, make_cache
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs
from tests.tiny import LLAMA, Config, inputs_of, load, run

PROMPT, NEW = 5, 12
HEADS, SIZE, ROWS = 2, 16, 2
POSITION = 2 * ROWS * HEADS * SIZE * 4
"""Bytes of the keys and values of one position of both rows in one layer of LLAMA."""

_COPIES = {"cat", "stack", "clone", "copy_", "_to_copy", "gather", "index", "index_select"}


class Copied(TorchDispatchMode):
    """Counts the bytes that copying operations write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.joined = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _COPIES:
            self.bytes += result.numel() * result.element_size()
        if name in ("cat", "stack"):
            self.joined = max(self.joined, len(args[0]))
        return result


def made(folder: str, name: str, inputs: Inputs | None = None, new: int = NEW) -> Cache:
    """Return a new cache, made as for a generation with a prompt of five tokens in two rows."""
    loaded = load(folder)
    call = Call(loaded, inputs or prompt_of(loaded), new)
    # A body that leaves it to `generate` gets what `generate` makes.
    options = make_cache(strategy(name), call)
    assert isinstance(options, dict)
    cache = options.get("past_key_values", DynamicCache())
    assert isinstance(cache, Cache)
    return cache


def prompt_of(loaded: LoadedModel) -> Inputs:
    return inputs_of(loaded, [[5, 17, 9, 300, 44]] * ROWS)


def states(positions: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of some positions, `[rows, heads, positions, size]`."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, ROWS, HEADS, positions, SIZE, generator=generator)
    return keys, values


def feed(cache: Cache, counts: Iterable[int]) -> list[Copied]:
    """Feed one layer as many positions as each count says, and return what each step copied."""
    found = []
    for seed, count in enumerate(counts):
        new = states(count, seed)
        with Copied() as copied:
            cache.update(*new, 0)
        found.append(copied)
    return found


def copied(folder: str, name: str) -> list[int]:
    """Return the positions that each of eleven steps copies in a layer, after a prompt of five."""
    steps = feed(made(folder, name), [PROMPT] + [1] * (NEW - 1))[1:]
    return [step.bytes // POSITION for step in steps]


def generated(folder: str, name: str, tokens: int = NEW) -> Any:
    loaded = load(folder)
    return run(loaded, prompt_of(loaded), name, tokens).cache


AFTER = range(PROMPT + 1, PROMPT + NEW)
"""The number of positions after each step."""


def assert_concat(folder: str) -> None:
    """Each step joins one more piece, and no piece ever moves."""
    cache = made(folder, "concat")
    steps = feed(cache, [PROMPT, 1, 1])
    assert [step.joined for step in steps] == [1, 2, 3]
    places = [piece.data_ptr() for piece in cache.layers[0].key_pieces]
    feed(cache, [1])
    assert [piece.data_ptr() for piece in cache.layers[0].key_pieces[:3]] == places
    # All positions at every step, and the new one into its piece.
    assert copied(folder, "concat") == [after + 1 for after in AFTER]
    assert cache_layers(generated(folder, "concat")) == "ConcatLayer x2"


def assert_prealloc(folder: str) -> None:
    """A step copies one position, except when the buffer doubles: 5, 10, 20."""
    assert copied(folder, "prealloc") == [
        1 + (after - 1 if after - 1 in (5, 10) else 0) for after in AFTER
    ]
    cache = generated(folder, "prealloc")
    assert allocated_bytes(cache) == 2 * 20 * POSITION
    assert cache_bytes(cache) == 2 * (PROMPT + NEW - 1) * POSITION


def assert_per_head(folder: str) -> None:
    """Each head grows by itself, and then all are stacked: everything is copied twice."""
    assert copied(folder, "per-head") == [2 * after for after in AFTER]
    cache = generated(folder, "per-head")
    layer = cache.layers[0]
    assert [tuple(head.shape) for head in layer.head_keys] == [(ROWS, 16, SIZE)] * HEADS


def assert_blocks(folder: str) -> None:
    """Rows take blocks in turn, and no more room than whole blocks."""
    cache = generated(folder, "blocks:size=4")
    assert cache_layers(cache) == "BlocksLayer x2"
    layer = cache.layers[0]
    assert layer.table == [[0, 2, 4, 6], [1, 3, 5, 7]]
    fifteen = generated(folder, "blocks:size=4", NEW - 1)
    assert cache_bytes(fifteen) == 2 * 15 * POSITION
    assert allocated_bytes(fifteen) == allocated_bytes(cache) == 2 * 16 * POSITION
    # Gathered at every read; what is new is put together and written.
    assert copied(folder, "blocks:size=4") == [after + 2 for after in AFTER]


BEHAVIORS: dict[str, tuple[Config, Callable[[str], None]]] = {
    "concat": (LLAMA, assert_concat),
    "prealloc": (LLAMA, assert_prealloc),
    "per-head": (LLAMA, assert_per_head),
    "blocks:size=4": (LLAMA, assert_blocks),
}
EXACT = ["concat", "prealloc", "per-head", "blocks:size=4"]
LOSSY: list[str] = []


def assert_half(folder: str) -> None:
    """Two bytes per number, and everything returned is rounded to them, in the first step too."""
    cache = generated(folder, "half")
    assert allocated_bytes(cache) == cache_bytes(cache) == 2 * 16 * POSITION // 2
    for dtype in (torch.float16, torch.bfloat16):
        name = f"half:dtype={str(dtype).removeprefix('torch.')}"
        keys, values = states(PROMPT)
        found = made(folder, name).update(keys, values, 0)
        assert [one.dtype for one in found] == [torch.float32] * 2
        assert torch.equal(found[0], keys.to(dtype).float())
        assert torch.equal(found[1], values.to(dtype).float())
        assert not torch.equal(found[0], keys)


BEHAVIORS["half"] = (LLAMA, assert_half)
LOSSY.append("half")


def assert_tiered(folder: str) -> None:
    """Recent positions come back exactly; older ones are off by half a step of int8."""
    cache = made(folder, "tiered:block=4:recent=4")
    keys = torch.cat([states(count, seed)[0] for seed, count in enumerate([PROMPT, 7, 1])], dim=2)
    feed(cache, [PROMPT, 7])
    found, _ = cache.update(*states(1, 2), 0)
    # Of 12 positions two blocks are old; the last four and the new one are not.
    assert torch.equal(found[:, :, 8:], keys[:, :, 8:])
    for block in (slice(0, 4), slice(4, 8)):
        step = keys[:, :, block].abs().amax(dim=(2, 3), keepdim=True) / 127
        error = (found[:, :, block] - keys[:, :, block]).abs()
        assert (error <= 0.501 * step).all()
        assert error.max() > 0
    codes = [code for code, _ in cache.layers[0].cached["keys"].old]
    assert [code.dtype for code in codes] == [torch.int8] * 2
    generation = generated(folder, "tiered:block=4:recent=4")
    assert allocated_bytes(generation) == cache_bytes(generation)


BEHAVIORS["tiered:block=4:recent=4"] = (LLAMA, assert_tiered)
LOSSY.append("tiered:block=4:recent=4")


def assert_knorm(folder: str) -> None:
    """Each head drops its own longest keys, and a step always costs the same."""
    cache = made(folder, "knorm:budget=6")
    feed(cache, [PROMPT, 4])
    keys = torch.cat([states(PROMPT, 0)[0], states(4, 1)[0]], dim=2)
    # What the prompt brought is within the budget; four more are chosen from at once.
    assert [type(layer).__name__ for layer in cache.layers] == ["KNormLayer"]
    places = keys.norm(dim=3).argsort(dim=2)[:, :, :6].sort(dim=2).values
    expected = keys.gather(2, places[..., None].expand(-1, -1, -1, SIZE))
    assert torch.equal(cache.layers[0].kept[0], expected)
    assert len({tuple(row) for row in places.flatten(0, 1).tolist()}) > 1
    assert len(set(copied(folder, "knorm:budget=6")[2:])) == 1


BEHAVIORS["knorm:budget=6"] = (LLAMA, assert_knorm)
LOSSY.append("knorm:budget=6")


def assert_random(folder: str) -> None:
    """The choice is independent of the keys, and drawn in the same way each time."""
    kept = []
    for factor in (1, 1, 5):
        cache = made(folder, "random:budget=6")
        for seed, count in enumerate([PROMPT, 4]):
            keys, values = states(count, seed)
            # The longest of all keys by far would be the first to go by their norm.
            cache.update(keys * torch.linspace(1, factor, count)[:, None], values, 0)
        assert [type(layer).__name__ for layer in cache.layers] == ["RandomLayer"]
        kept.append(cache.layers[0].kept[1])
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])
    assert kept[0].shape == (ROWS, HEADS, 6, SIZE)
    by_norm = made(folder, "knorm:budget=6")
    feed(by_norm, [PROMPT, 4])
    assert not torch.equal(by_norm.layers[0].kept[1], kept[0])


BEHAVIORS["random:budget=6"] = (LLAMA, assert_random)
LOSSY.append("random:budget=6")


def assert_disk(folder: str) -> None:
    """All but the last positions are in unnamed files with room for the whole generation."""
    cache = generated(folder, "disk:recent=4")
    assert cache_bytes(cache) == 2 * 16 * POSITION
    assert allocated_bytes(cache) == 2 * 4 * POSITION
    assert disk_bytes(cache) == 2 * 12 * POSITION
    assert {old.shape[2] for layer in cache.layers for old in layer.on_disk} == {12}
    # Nothing is moved while all of it is recent, and no file is created.
    assert disk_bytes(generated(folder, "disk:recent=64")) == 0


BEHAVIORS["disk:recent=4"] = (LLAMA, assert_disk)
EXACT.append("disk:recent=4")
