"""Observers: record the shapes of real tensors in a model while it generates.

They hook into places that every family in Transformers shares, to avoid code per family: the
model's forward, the attention function, and the cache update.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, Cache, PreTrainedModel

from kvbench.measure.cache import cache_bytes, cache_tensors
from kvbench.measure.verify.shapes import CacheShape, cache_of, read_shape
from kvbench.records.inspection import KeptTensors, Shape

__all__ = ["Seen", "Watch", "watching"]

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Seen:
    """What one forward showed; what it did not show is null.

    Attributes:
        input_ids: `[batch, positions fed]`.
        query: `[batch, heads, positions fed, head_dim]`, in the watched layer.
        attended: shapes of the keys and values that the query attends to.
        handed: shapes of the keys and values passed to the cache.
        cache: the cache afterwards.
        cache_bytes: its exact bytes.
        keys: the keys that the query attends to, `[kv_heads, positions, head_dim]`, of the first
            sequence, as a copy on the CPU: a cache may write into its buffers later.
        made: the keys passed to the cache, in the same form.
        kept: the tensors of the watched layer in it.
    """

    input_ids: Shape
    query: Shape | None = None
    attended: tuple[Shape, Shape] | None = None
    handed: tuple[Shape, Shape] | None = None
    cache: CacheShape | None = None
    cache_bytes: int = 0
    keys: torch.Tensor | None = None
    made: torch.Tensor | None = None
    kept: tuple[KeptTensors, ...] = ()


@dataclass
class Watch:
    """What a generation showed.

    Attributes:
        steps: its forwards.
        last: the keys and values that attention saw in the latest forward.
    """

    steps: list[Seen] = field(default_factory=list)
    last: Pair | None = None


@contextlib.contextmanager
def watching(model: PreTrainedModel, layer: int) -> Iterator[Watch]:
    """Observe each forward of a model while the block runs; the hooks are removed afterwards.

    Args:
        model: the model.
        layer: the layer whose queries, keys and values are read.
    """
    watch = Watch()

    def before(_module: torch.nn.Module, _args: Any, options: dict[str, Any]) -> None:
        watch.steps.append(Seen(_fed(options)))
        watch.last = None

    def after(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        cache, step = cache_of(output), watch.steps[-1]
        if cache is not None:
            step.cache, step.cache_bytes = read_shape(cache), cache_bytes(cache)
            step.kept = _kept(cache, layer)

    def attend(module: Any, query: torch.Tensor, *pair: torch.Tensor) -> None:
        # An encoder has layers with the same numbers, but runs before the first forward; attention
        # to it comes after self-attention.
        if not watch.steps or watch.steps[-1].query is not None:
            return
        if getattr(module, "layer_idx", None) == layer:
            watch.steps[-1].query = tuple(query.shape)
            watch.steps[-1].attended = _shapes(*pair)
            watch.steps[-1].keys = _copy(pair[0])
            watch.last = (pair[0], pair[1])

    def keep(index: int, *pair: torch.Tensor) -> None:
        if index == layer and watch.steps and watch.steps[-1].handed is None:
            watch.steps[-1].handed = _shapes(*pair)
            watch.steps[-1].made = _copy(pair[0])

    with contextlib.ExitStack() as stack:
        handle = model.register_forward_pre_hook(before, with_kwargs=True)
        stack.callback(handle.remove)
        stack.callback(model.register_forward_hook(after).remove)
        stack.enter_context(_replaced(AttentionInterface, "get_interface", _observed(attend)))
        stack.enter_context(_replaced(Cache, "update", _observed_update(keep)))
        yield watch


def _kept(cache: Any, layer: int) -> tuple[KeptTensors, ...]:
    """Return the tensors of one layer of a cache, alike ones together."""
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", ())
    kinds = Counter(
        (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for one in layers[layer : layer + 1]
        for tensor in cache_tensors(one)
    )
    return tuple(
        KeptTensors(count=count, shape=shape, dtype=dtype)
        for (shape, dtype), count in sorted(kinds.items(), reverse=True)
    )


def _fed(options: dict[str, Any]) -> Shape:
    """Return the shape of a forward's input: the decoder's ids, if there is an encoder."""
    for name in ("decoder_input_ids", "input_ids"):
        if options.get(name) is not None:
            return tuple(options[name].shape)
    return tuple(options["inputs_embeds"].shape[:2])


def _shapes(keys: torch.Tensor, values: torch.Tensor) -> tuple[Shape, Shape]:
    return tuple(keys.shape), tuple(values.shape)


def _copy(keys: torch.Tensor) -> torch.Tensor:
    """Return the keys of the first sequence: `[kv_heads, positions, head_dim]`."""
    return keys[0].detach().to("cpu", torch.float32, copy=True)


@contextlib.contextmanager
def _replaced(owner: type, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace a method of a class temporarily."""
    original = vars(owner).get(name)
    if original is None:
        # Another release of Transformers: then less is observed.
        yield
        return
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _observed(look: Callable[..., None]) -> Callable[[Any], Any]:
    """Wrap `AttentionInterface.get_interface`, where each layer looks up its function.

    The function itself, including its mask, stays the model's own.
    """

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def get_interface(*arguments: Any, **options: Any) -> Any:
            function = original(*arguments, **options)

            @functools.wraps(function)
            def attend(
                module: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any
            ) -> Any:
                look(module, query, key, value)
                return function(module, query, key, value, *rest, **more)

            return attend

        return get_interface

    return wrap


def _observed_update(look: Callable[..., None]) -> Callable[[Any], Any]:
    """Wrap `Cache.update`, which receives the new keys and values of each layer."""

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def update(
            self: Cache, key_states: Any, value_states: Any, layer_idx: int, *rest: Any, **more: Any
        ) -> Any:
            look(layer_idx, key_states, value_states)
            return original(self, key_states, value_states, layer_idx, *rest, **more)

        return update

    return wrap
