"""Faults that are detected for `dynamic` are detected for each exact strategy that runs here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Cache
from transformers.cache_utils import StaticLayer
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from kvbench.measure.verify import verify
from kvbench.measure.verify.runs import make_work
from kvbench.records.check import Check
from tests.measure.test_caches import GEMMA3
from tests.tiny import LLAMA, config_folder, load

STRATEGIES = ["dynamic", "static", "dynamic-full", "paged"]
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

    def single(layer: Any, is_step: bool) -> None:
        if is_step:
            layer.keys = layer.keys[:, ::2].contiguous()
            layer.values = layer.values[:, ::2].contiguous()

    def double(layer: Any, _: bool, keys: torch.Tensor, values: torch.Tensor) -> States:
        layer.keys = keys.repeat_interleave(2, dim=1)
        layer.values = values.repeat_interleave(2, dim=1)
        return keys, values

    wrap(patch, name, before=single, after=double)


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


def broken(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.verdict == "fail"]


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


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, dtype: str, name: str
) -> None:
    plant, kind = FAULTS[fault]
    if name == "paged" and kind == "shape":
        pytest.skip("the check of shapes cannot read pages")
    late = "late" in fault
    if dtype == "bfloat16" and kind != "logits":
        pytest.skip("the same whatever the dtype")
    config = GEMMA3 if name == "dynamic-full" else LLAMA
    loaded = load(config_folder(tmp_path, config), dtype=dtype)
    far = make_work(loaded, 1, 80, 0) if late else None
    plant(monkeypatch, name)
    checks = verify(loaded, name, new_tokens=8, generations=3, far=far)
    wrong = {(check.check, check.checked_dtype, check.new_tokens) for check in broken(checks)}
    assert kind in {check for check, _, _ in wrong}, [check.detail for check in checks]
    # Not for another reason: an error in the fault itself.
    # A dropped position may raise one of its own: what is left is shorter than a padded mask.
    if fault not in ("an error", "a dropped position"):
        assert not any("Error" in check.detail for check in checks)
    if kind == "logits":
        assert {checked for check, checked, _ in wrong if check == "logits"} >= {"float32"}
    if late:
        assert {length for _, _, length in wrong} == {80}


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_a_fault_nothing_is_caught(tmp_path: Path, name: str) -> None:
    config = GEMMA3 if name == "dynamic-full" else LLAMA
    loaded = load(config_folder(tmp_path, config))
    checks = verify(loaded, name, new_tokens=8, generations=3, far=make_work(loaded, 1, 80, 0))
    assert not broken(checks), [check.detail for check in broken(checks)]
