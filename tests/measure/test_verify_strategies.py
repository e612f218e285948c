"""Faults that are detected for `dynamic` are detected for each other exact strategy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Cache
from transformers.cache_utils import StaticLayer
from transformers.generation.continuous_batching import cache as paged_cache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators import (
    FullAttentionCacheAllocator,
)

from kvbench.measure.verify import verify
from kvbench.measure.verify.runs import make_work
from kvbench.models.load import LoadedModel
from tests.measure.bodies import OFFLOADED, allow_here
from tests.measure.test_caches import GEMMA3
from tests.tiny import LLAMA, config_folder, load

HERE = ["dynamic", "static", "dynamic-full", "paged"]
SLOT, LATE_SLOT = 3, 70
STEP = 4
"""The most new positions of a step here: one per sequence. A prompt has 8."""

States = tuple[torch.Tensor, torch.Tensor]
Plant = Callable[[pytest.MonkeyPatch, str], None]


def wrap(
    patch: pytest.MonkeyPatch,
    name: str,
    before: Callable[[Any, bool], None] = lambda layer, is_step: None,
    after: Callable[[Any, bool, torch.Tensor, torch.Tensor], States] = lambda layer, s, k, v: (
        k,
        v,
    ),
    only: int | None = None,
) -> None:
    """Run functions before and after keys and values are kept.

    Args:
        patch: pytest's fixture.
        name: name of the strategy.
        before: receives the layer, if there are layers, and whether this is a step.
        after: also receives what attention gets, and returns a replacement.
        only: the only layer to change; null means all.
    """
    kind: Any = PagedAttentionCache if name == "paged" else Cache
    update = kind.update

    # Under the names that attention calls it with.
    def wrapped(
        self: Any, key_states: Any, value_states: Any, layer_idx: int, *more: Any, **named: Any
    ) -> States:
        touched = only in (None, layer_idx)
        layers = getattr(self, "layers", [])
        layer = layers[layer_idx] if layer_idx < len(layers) else None
        is_step = key_states.shape[-2] <= STEP
        if touched:
            before(layer, is_step)
        found = update(self, key_states, value_states, layer_idx, *more, **named)
        layer = self.layers[layer_idx] if hasattr(self, "layers") else None
        return after(layer, is_step, *found) if touched else found

    patch.setattr(kind, "update", wrapped)


def drop_a_position(patch: pytest.MonkeyPatch, name: str) -> None:
    """Lose a position of the prompt, or write a new one over the one before it."""
    if name == "paged":
        update = PagedAttentionCache.update

        def over(
            self: Any, key_states: Any, value_states: Any, layer_idx: int, kwargs: Any
        ) -> States:
            if key_states.shape[-2] <= STEP:
                kwargs["write_index"] = [places - 1 for places in kwargs["write_index"]]
            return update(self, key_states, value_states, layer_idx, kwargs)

        patch.setattr(PagedAttentionCache, "update", over)
        return
    done: set[int] = set()

    def drop(layer: Any, is_step: bool) -> None:
        if not is_step or id(layer) in done:
            return
        done.add(id(layer))
        if isinstance(layer, StaticLayer):
            for states in (layer.keys, layer.values):
                states[:, :, SLOT:-1] = states[:, :, SLOT + 1 :].clone()
            layer.cumulative_length.sub_(1)
        else:
            kept = [place for place in range(layer.keys.shape[2]) if place != SLOT]
            layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]

    wrap(patch, name, before=drop)


def shuffle_heads(patch: pytest.MonkeyPatch, name: str) -> None:
    """Read the keys of one head with the values of another."""
    wrap(patch, name, after=lambda _, is_step, k, v: (k.flip(1) if is_step else k, v))


def repeat_heads(patch: pytest.MonkeyPatch, name: str) -> None:
    """Keep each head twice in each layer, and return what is right."""
    if name == "paged":
        repeat_heads_in_pages(patch)
        return

    def single(layer: Any, is_step: bool) -> None:
        if is_step:
            layer.keys = layer.keys[:, ::2].contiguous()
            layer.values = layer.values[:, ::2].contiguous()

    def double(layer: Any, _: bool, keys: torch.Tensor, values: torch.Tensor) -> States:
        layer.keys = keys.repeat_interleave(2, dim=1)
        layer.values = values.repeat_interleave(2, dim=1)
        return keys, values

    wrap(patch, name, before=single, after=double)


def repeat_heads_in_pages(patch: pytest.MonkeyPatch) -> None:
    update = FullAttentionCacheAllocator.update
    heads = paged_cache.find_num_key_value_heads

    def doubled(self: Any, keys: Any, values: Any, *more: Any) -> States:
        twice = (one.repeat_interleave(2, dim=1) for one in (keys, values))
        keys, values = update(self, *twice, *more)
        return keys[:, ::2], values[:, ::2]

    patch.setattr(paged_cache, "find_num_key_value_heads", lambda config: 2 * heads(config))
    patch.setattr(FullAttentionCacheAllocator, "update", doubled)


def zero(place: Any, *, keys_too: bool, past: int = 0) -> Plant:
    """Zero something in one layer from the first step on with enough positions."""

    def plant(patch: pytest.MonkeyPatch, name: str) -> None:
        def clear(_: Any, is_step: bool, keys: torch.Tensor, values: torch.Tensor) -> States:
            if is_step and keys.shape[2] > past:
                # In place: for most strategies this is the cache itself.
                values[place] = 0
                if keys_too:
                    keys[place] = 0
            return keys, values

        wrap(patch, name, after=clear, only=1)

    return plant


def keep_references(patch: pytest.MonkeyPatch, name: str) -> None:
    """Return a list that holds every cache."""
    keep(patch, name, lambda cache: cache)


def keep_masks(patch: pytest.MonkeyPatch, name: str) -> None:
    """Return a list that holds a tensor of 1 KiB for each cache, and no cache."""
    keep(patch, name, lambda _: torch.zeros(256))


def keep(patch: pytest.MonkeyPatch, name: str, what: Callable[[Any], Any]) -> None:
    kind: Any = PagedAttentionCache if name == "paged" else Cache
    init, kept = kind.__init__, []

    def keeping(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        kept.append(what(self))

    patch.setattr(kind, "__init__", keeping)


def fail(patch: pytest.MonkeyPatch, name: str) -> None:
    """Make the cache raise when it should keep something."""

    def refuse(*_: Any) -> None:
        raise ValueError("no such layer")

    wrap(patch, name, before=refuse)


SLICE = slice(None)
FAULTS: dict[str, tuple[Plant, str]] = {
    "a dropped position": (drop_a_position, "logits"),
    "shuffled heads": (shuffle_heads, "logits"),
    "repeated heads": (repeat_heads, "shape"),
    "a zeroed slot": (zero((SLICE, SLICE, SLOT), keys_too=True), "logits"),
    "a zeroed number": (zero((SLICE, 0, SLOT, 0), keys_too=False), "logits"),
    "a late zeroed slot": (
        zero((SLICE, SLICE, LATE_SLOT), keys_too=True, past=LATE_SLOT),
        "logits",
    ),
    "kept caches": (keep_references, "leak"),
    "kept tensors": (keep_masks, "leak"),
    "an error": (fail, "tokens"),
}


def missed(loaded: LoadedModel, name: str, fault: str, patch: pytest.MonkeyPatch) -> str | None:
    """Return what verification does not see of a fault; None if it sees all."""
    plant, kind = FAULTS[fault]
    far = make_work(loaded, 1, 80, 0) if "late" in fault else None
    plant(patch, name)
    checks = verify(loaded, name, new_tokens=8, generations=3, far=far)
    failed = [check for check in checks if check.verdict == "fail"]
    wrong = {(check.check, check.checked_dtype, check.new_tokens) for check in failed}
    details = [check.detail for check in checks]
    if kind not in {check for check, _, _ in wrong}:
        return f"no failed check of {kind}: {details}"
    # A dropped position may raise an error of its own: what is left is shorter than a padded mask.
    if fault not in ("an error", "a dropped position") and any("Error" in one for one in details):
        return f"found for another reason: {details}"
    if kind == "logits" and "float32" not in {dtype for check, dtype, _ in wrong if check == kind}:
        return f"not found in float32: {details}"
    if far is not None and {length for _, _, length in wrong} != {80}:
        return f"found elsewhere: {details}"
    return None


@pytest.mark.parametrize(
    ("name", "dtype", "device"),
    [
        *((name, "float32", "cpu") for name in [*HERE, *OFFLOADED]),
        # The verdict is taken in float32, whatever the strategy.
        ("dynamic", "bfloat16", "cpu"),
        *(
            pytest.param(name, "float32", "cuda", marks=pytest.mark.cuda)
            for name in [*OFFLOADED, "static-compiled"]
        ),
    ],
)
def test_every_fault_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, device: str
) -> None:
    config = GEMMA3 if name == "dynamic-full" else LLAMA
    loaded = load(config_folder(tmp_path, config), dtype=dtype, device=device)
    if device == "cpu":
        allow_here(monkeypatch, name)
    far = make_work(loaded, 1, 80, 0)
    sound = verify(loaded, name, new_tokens=8, generations=3, far=far)
    found = {"none": [one.detail for one in sound if one.verdict == "fail"]}
    for fault, (_, kind) in FAULTS.items():
        # The other kinds are the same whatever the dtype.
        if dtype == "float32" or kind == "logits":
            with monkeypatch.context() as patch:
                found[fault] = missed(loaded, name, fault, patch)
    assert {fault: why for fault, why in found.items() if why} == {}
