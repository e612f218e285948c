"""Record the shape of a cache after each step, and what attention passed to it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import Cache
from transformers.generation.continuous_batching import PagedAttentionCache

__all__ = [
    "CacheShape",
    "Handed",
    "LayerShape",
    "PagedLayer",
    "cache_of",
    "noting_what_is_handed_over",
    "read_shape",
]

# The attribute of an output that holds its cache; state-space models have their own name for it.
_NAMES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Handed:
    """What attention has passed to one layer of a cache so far: the truth about the model.

    A configuration may have fields that the model ignores.

    Attributes:
        keys: shape of one position's keys, `(batch, kv_heads, head_dim)`.
        values: the same for its values.
        positions: how many positions there were.
    """

    keys: Shape
    values: Shape
    positions: int


HandedOver = dict[tuple[int, int], Handed]
"""Keyed by the identity of the cache and the number of the layer."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer of a cache after a step.

    Attributes:
        keys: `(batch, kv_heads, positions, head_dim)`, or null if the layer has none.
        values: the same.
        length: positions fed so far, as reported by the layer; null if it does not report them.
        fixed: whether keys and values are a buffer made for the longest length.
        states: shapes of the states that do not grow.
        window: positions that a query sees, as reported by the layer; null if it has no window.
        handed: what attention has passed so far; null if it was not observed.
    """

    keys: Shape | None
    values: Shape | None
    length: int | None
    fixed: bool
    states: tuple[Shape, ...]
    window: int | None = None
    handed: Handed | None = None


@dataclass(frozen=True, slots=True)
class PagedLayer:
    """One layer of a paged cache after a step, whose sequences have no padding.

    Attributes:
        slot: shape of one position's keys in a page, `(kv_heads, head_dim)`; values have the same.
        page: positions in a page.
        tables: the numbers of each sequence's pages, in order.
        window: positions that a query sees, as reported by the layer; null if it has no window.
        handed: what attention has passed so far, all sequences in one row; null if not observed.
    """

    slot: Shape
    page: int
    tables: tuple[Shape, ...]
    window: int | None = None
    handed: Handed | None = None


@dataclass(frozen=True, slots=True)
class CacheShape:
    """A cache after a step: the layers of self-attention and, with an encoder, of cross-attention.

    A paged cache has `pages` instead. `unreadable` is the class of a cache that has neither, else
    null.
    """

    layers: tuple[LayerShape, ...]
    cross: tuple[LayerShape, ...] = ()
    unreadable: str | None = None
    pages: tuple[PagedLayer, ...] = ()


def cache_of(output: Any, given: Mapping[str, Any] | None = None) -> Any:
    """Return the cache of a forward; None without one.

    Args:
        output: what the forward returned.
        given: its keyword arguments. Continuous batching passes its cache there, and no model
            returns it.
    """
    caches = (getattr(output, name, None) for name in _NAMES)
    own = (given or {}).get("cache")
    return next((cache for cache in (*caches, own) if cache is not None), None)


@contextlib.contextmanager
def noting_what_is_handed_over() -> Iterator[HandedOver]:
    """Record the shapes of all keys and values passed to caches while the block runs."""
    handed: HandedOver = {}
    # Held until the end, so that no two caches have the same id.
    caches: dict[int, Any] = {}
    # An update of a class may call its base class's update: that is still one update.
    inside: set[tuple[int, int]] = set()

    def noting(update: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(update)
        def wrapped(
            # Under the names that attention calls it with.
            self: Any,
            key_states: Any,
            value_states: Any,
            layer_idx: int,
            *more: Any,
            **named: Any,
        ) -> Any:
            key = (id(self), layer_idx)
            # Compiled code must not change outside state.
            if torch.compiler.is_compiling() or key in inside:
                return update(self, key_states, value_states, layer_idx, *more, **named)
            caches[key[0]] = self
            _note(handed, key, key_states, value_states)
            inside.add(key)
            try:
                return update(self, key_states, value_states, layer_idx, *more, **named)
            finally:
                inside.discard(key)

        return wrapped

    # Look this up before changing anything: a method must be restored on its own class.
    kinds = [*_kinds(Cache), PagedAttentionCache]
    updates = [(kind, vars(kind)["update"]) for kind in kinds if "update" in vars(kind)]
    try:
        for kind, update in updates:
            kind.update = noting(update)
        yield handed
    finally:
        for kind, update in updates:
            kind.update = update


def _kinds(kind: Any) -> list[Any]:
    """Yield a class and all its subclasses, each once."""
    found = {kind: None}
    for derived in kind.__subclasses__():
        found |= dict.fromkeys(_kinds(derived))
    return list(found)


def _note(handed: HandedOver, key: tuple[int, int], keys: Any, values: Any) -> None:
    one, other = _shape(keys), _shape(values)
    if one is None or other is None or len(one) != 4 or len(other) != 4:
        return
    before = handed[key].positions if key in handed else 0
    handed[key] = Handed((*one[:2], one[3]), (*other[:2], other[3]), before + one[2])


def read_shape(cache: Any, handed: HandedOver | None = None) -> CacheShape:
    """Return the current shape of a cache. Only numbers are kept, so the cache can be freed.

    Args:
        cache: the cache in the output of a forward.
        handed: what caches have received so far.
    """
    cross = getattr(cache, "cross_attention_cache", None)
    own = getattr(cache, "self_attention_cache", cache)
    layers = getattr(own, "layers", None)
    if hasattr(cache, "layer_to_allocator"):
        return CacheShape((), pages=_read_pages(cache, handed or {}))
    if layers is None:
        return CacheShape((), unreadable=type(cache).__name__)
    return CacheShape(_read_layers(own, handed or {}), _read_layers(cross, handed or {}))


def _read_layers(cache: Any, handed: HandedOver) -> tuple[LayerShape, ...]:
    return tuple(
        replace(_read_layer(layer), handed=handed.get((id(cache), index)))
        for index, layer in enumerate(getattr(cache, "layers", ()))
    )


def _read_pages(cache: Any, handed: HandedOver) -> tuple[PagedLayer, ...]:
    return tuple(
        PagedLayer(
            slot=tuple(allocator.cache_tensor.shape[-2:]),
            page=allocator.tokens_per_page,
            tables=tuple(map(tuple, allocator.block_table.values())),
            window=_window(allocator),
            handed=handed.get((id(cache), index)),
        )
        for index, allocator in sorted(cache.layer_to_allocator.items())
    )


def _read_layer(layer: Any) -> LayerShape:
    length = layer.get_seq_length() if hasattr(layer, "get_seq_length") else None
    packed = hasattr(layer, "_quantized_keys")
    states = [
        state
        for name in ("conv_states", "recurrent_states")
        for state in getattr(layer, name, {}).values()
    ]
    return LayerShape(
        # A quantized layer's keys are the few that are not packed yet.
        keys=None if packed else _shape(getattr(layer, "keys", None)),
        values=None if packed else _shape(getattr(layer, "values", None)),
        length=None if length is None else int(length),
        fixed=hasattr(layer, "max_cache_len"),
        states=tuple(shape for shape in map(_shape, states) if shape is not None),
        window=_window(layer),
    )


def _window(layer: Any) -> int | None:
    window = getattr(layer, "sliding_window", None)
    return None if window is None else int(window)


def _shape(tensor: Any) -> Shape | None:
    known = isinstance(tensor, torch.Tensor) and tensor.numel() > 0
    return tuple(tensor.shape) if known else None
