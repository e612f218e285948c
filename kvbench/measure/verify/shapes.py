"""The cache after each step, and whether it is what the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvbench.measure.verify.expected import LayerPlan, cross_layers, decoder_layers
from kvbench.measure.verify.runs import Work

__all__ = ["CacheShape", "LayerShape", "cache_of", "describe_shapes", "read_shape", "wrong_shape"]

# Where an output has its cache; state-space models have a name of their own for it.
_NAMES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer of a cache after a step.

    Attributes:
        keys: `(batch, kv_heads, positions, head_dim)`, or null where the layer has none.
        values: the same.
        length: positions fed so far, as the layer says itself; null where it does not say.
        fixed: whether keys and values are a buffer made for the longest length.
        states: shapes of the states that do not grow.
    """

    keys: Shape | None
    values: Shape | None
    length: int | None
    fixed: bool
    states: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """A cache after a step: the layers of self-attention and, with an encoder, of cross-attention.

    `unreadable` is the class of a cache that has no layers, else null.
    """

    layers: tuple[LayerShape, ...]
    cross: tuple[LayerShape, ...] = ()
    unreadable: str | None = None


def cache_of(output: Any) -> Any:
    """The cache in the output of a forward; None without one."""
    caches = (getattr(output, name, None) for name in _NAMES)
    return next((cache for cache in caches if cache is not None), None)


def read_shape(cache: Any) -> CacheShape:
    """What a cache looks like now. Only numbers are kept, so that it can be freed."""
    cross = getattr(cache, "cross_attention_cache", None)
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
    if layers is None:
        return CacheShape((), unreadable=type(cache).__name__)
    return CacheShape(
        tuple(_read_layer(layer) for layer in layers),
        tuple(_read_layer(layer) for layer in getattr(cross, "layers", ())),
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
        # A quantised layer's keys are the few that are not packed yet.
        keys=None if packed else _shape(getattr(layer, "keys", None)),
        values=None if packed else _shape(getattr(layer, "values", None)),
        length=None if length is None else int(length),
        fixed=hasattr(layer, "max_cache_len"),
        states=tuple(shape for shape in map(_shape, states) if shape is not None),
    )


def _shape(tensor: Any) -> Shape | None:
    known = isinstance(tensor, torch.Tensor) and tensor.numel() > 0
    return tuple(tensor.shape) if known else None


def wrong_shape(work: Work, steps: Sequence[CacheShape]) -> str | None:
    """The first thing in the cache of a generation that is not as the configuration says.

    Args:
        work: what was generated.
        steps: the cache after each forward, the prefill first.

    Returns:
        One sentence without a full stop, or null if all is right.
    """
    if len(steps) != work.new_tokens:
        return f"{len(steps)} forwards made a cache for {work.new_tokens} new tokens"
    config = work.loaded.config
    plans = decoder_layers(config)
    cross = cross_layers(config) if work.loaded.is_encoder_decoder else ()
    for step, shape in enumerate(steps):
        wrong = _wrong_layers(
            plans, steps[0].layers, shape.layers, work.batch_size, work.decoder_prompt + step
        )
        where = "layer"
        if wrong is None:
            # The encoder's positions are all there from the start.
            wrong = _wrong_layers(
                cross, steps[0].cross, shape.cross, work.batch_size, work.inputs.tokens
            )
            where = "cross-attention layer"
        if wrong is not None:
            after = f"step {step}" if step else "the prefill"
            return f"{where} {wrong[0]} after {after}: {wrong[1]}"
    return None


def describe_shapes(work: Work, steps: Sequence[CacheShape]) -> str:
    """What was found right, in one sentence without a full stop."""
    plans = decoder_layers(work.loaded.config)
    text = f"layers are as the configuration says ({len(plans)} of them, {len(steps)} steps)"
    final = next((layer.keys for layer in reversed(steps[-1].layers) if layer.keys), None)
    if final is not None:
        text += f", in the end {list(final)}"
    fed = work.decoder_prompt + len(steps) - 1
    windows = sorted({plan.window for plan in plans if plan.window and plan.window > fed})
    if windows:
        text += f"; windows of {', '.join(map(str, windows))} were not filled"
    return text


def _wrong_layers(
    plans: Sequence[LayerPlan],
    first: Sequence[LayerShape],
    layers: Sequence[LayerShape],
    batch_size: int,
    seen: int,
) -> tuple[int, str] | None:
    nothing = LayerShape(None, None, None, False, ())
    for index in range(max(len(plans), len(layers))):
        # Past the last layer of the configuration, and past that of the cache, there is nothing.
        plan = plans[index] if index < len(plans) else LayerPlan("none")
        layer = layers[index] if index < len(layers) else nothing
        start = first[index] if index < len(first) else nothing
        wrong = _wrong_layer(plan, start, layer, batch_size, seen)
        if wrong is not None:
            return index, wrong
    return None


def _wrong_layer(
    plan: LayerPlan, first: LayerShape, layer: LayerShape, batch_size: int, seen: int
) -> str | None:
    if layer.states != first.states:
        return f"its states are {_listed(layer.states)}, they were {_listed(first.states)}"
    if plan.kind in ("state", "none"):
        return None if layer.keys is None else f"it has keys {list(layer.keys)}, expected none"
    if plan.kind == "unknown":
        return _wrong_tensors(plan, first, layer, batch_size, None)
    if layer.length is not None and layer.length != seen:
        return f"it says that it has seen {layer.length} positions, expected {seen}"
    return _wrong_tensors(plan, first, layer, batch_size, plan.positions(seen))


def _wrong_tensors(
    plan: LayerPlan, first: LayerShape, layer: LayerShape, batch_size: int, positions: int | None
) -> str | None:
    if layer.keys is None and layer.values is None and layer.length:
        # Quantised: what there is to see is the length, and that was right.
        return None
    for name in ("keys", "values"):
        found = getattr(layer, name)
        if found is None or len(found) != 4:
            return f"it has no {name}" if found is None else f"{name} are {list(found)}"
        # What the configuration does not state must at least stay what it was.
        start = getattr(first, name) or found
        length = found[2] if positions is None else positions
        if layer.fixed:
            length = max(start[2], length)
        expected = [batch_size, plan.kv_heads or start[1], length, plan.head_dim or start[3]]
        if list(found) != expected:
            return f"{name} are {list(found)}, expected {expected}"
    return None


def _listed(shapes: tuple[Shape, ...]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes) or "none"
