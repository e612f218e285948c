"""Record the cache after each step, and check it against the configuration."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import Cache

from kvbench.caches import CacheStrategy
from kvbench.measure.verify.expected import LayerPlan, cross_layers, decoder_layers
from kvbench.measure.verify.runs import Work

__all__ = [
    "CacheShape",
    "Handed",
    "LayerShape",
    "cache_of",
    "contradicts_itself",
    "describe_shapes",
    "noting_what_is_handed_over",
    "read_shape",
    "saw_what_was_handed_over",
    "wrong_shape",
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


Keeps = Callable[[int, int | None], int]
"""Returns how many positions a layer keeps, from how many were seen and the model's window."""

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
class CacheShape:
    """A cache after a step: the layers of self-attention and, with an encoder, of cross-attention.

    `unreadable` is the class of a cache that has no layers, else null.
    """

    layers: tuple[LayerShape, ...]
    cross: tuple[LayerShape, ...] = ()
    unreadable: str | None = None


def cache_of(output: Any) -> Any:
    """Return the cache in the output of a forward; None without one."""
    caches = (getattr(output, name, None) for name in _NAMES)
    return next((cache for cache in caches if cache is not None), None)


@contextlib.contextmanager
def noting_what_is_handed_over() -> Iterator[HandedOver]:
    """Record the shapes of all keys and values passed to caches while the block runs."""
    handed: HandedOver = {}
    # An update of a class may call its base class's update: that is still one update.
    inside: set[tuple[int, int]] = set()

    def noting(update: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(update)
        def wrapped(
            self: Any, keys: Any, values: Any, layer_idx: int, *more: Any, **named: Any
        ) -> Any:
            key = (id(self), layer_idx)
            # Compiled code must not change outside state.
            if torch.compiler.is_compiling() or key in inside:
                return update(self, keys, values, layer_idx, *more, **named)
            _note(handed, key, keys, values)
            inside.add(key)
            try:
                return update(self, keys, values, layer_idx, *more, **named)
            finally:
                inside.discard(key)

        return wrapped

    # Look this up before changing anything: a method must be restored on its own class.
    updates = [(kind, vars(kind)["update"]) for kind in _kinds(Cache) if "update" in vars(kind)]
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
    if layers is None:
        return CacheShape((), unreadable=type(cache).__name__)
    return CacheShape(_read_layers(own, handed or {}), _read_layers(cross, handed or {}))


def _read_layers(cache: Any, handed: HandedOver) -> tuple[LayerShape, ...]:
    return tuple(
        replace(_read_layer(layer), handed=handed.get((id(cache), index)))
        for index, layer in enumerate(getattr(cache, "layers", ()))
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


def wrong_shape(work: Work, arm: CacheStrategy, steps: Sequence[CacheShape]) -> str | None:
    """Return the first thing in a generation's cache that is wrong.

    Layers, heads and windows follow from the configuration, the number of kept positions from the
    strategy.

    Args:
        work: what was generated.
        arm: the strategy of the generation.
        steps: the cache after each forward, the prefill first.

    Returns: One sentence without a period, or null if everything is right.
    """
    config = work.loaded.config
    plans = decoder_layers(config)
    cross = cross_layers(config) if work.loaded.is_encoder_decoder else ()
    for step, shape in enumerate(steps):
        seen = work.decoder_prompt + step
        wrong = _wrong_layers(
            plans, steps[0].layers, shape.layers, work.batch_size, seen, arm.positions_kept
        )
        where = "layer"
        if wrong is None:
            # All positions of the encoder exist from the start.
            wrong = _wrong_layers(
                cross, steps[0].cross, shape.cross, work.batch_size, work.inputs.tokens, _all
            )
            where = "cross-attention layer"
        if wrong is not None:
            after = f"step {step}" if step else "the prefill"
            return f"{where} {wrong[0]} after {after}: {wrong[1]}"
    return None


def saw_what_was_handed_over(steps: Sequence[CacheShape]) -> bool:
    """Return whether it is known what each layer with keys received."""
    layers = [layer for step in steps for layer in (*step.layers, *step.cross) if layer.keys]
    return all(layer.handed is not None for layer in layers)


def contradicts_itself(arm: CacheStrategy, steps: Sequence[CacheShape]) -> bool:
    """Return whether a cache differs from what it received: it is then wrong in any case.

    If its input was not observed, there is nothing to compare it with.

    Args:
        arm: the strategy of the generation.
        steps: the cache after each forward, the prefill first.
    """
    own: Keeps = arm.positions_kept
    parts = [(steps[0].layers, step.layers, own) for step in steps]
    parts += [(steps[0].cross, step.cross, _all) for step in steps]
    return any(
        _is_not_what_it_was_handed(first[index] if index < len(first) else layer, layer, kept)
        for first, layers, kept in parts
        for index, layer in enumerate(layers)
    )


def _all(seen: int, _window: int | None) -> int:
    """Return all positions: cross-attention keeps the encoder's whole output."""
    return seen


def _is_not_what_it_was_handed(first: LayerShape, layer: LayerShape, keeps: Keeps) -> bool:
    if layer.states != first.states:
        return True
    handed = layer.handed
    if handed is None:
        return False
    if layer.length is not None and layer.length != handed.positions:
        return True
    if layer.keys is None and layer.values is None:
        # Packed if it reports its length, and that is right; otherwise it has lost everything.
        return not layer.length
    kept = keeps(handed.positions, layer.window)
    for found, start, of_one in (
        (layer.keys, first.keys, handed.keys),
        (layer.values, first.values, handed.values),
    ):
        length = max(start[2], kept) if layer.fixed and start is not None else kept
        if found != (*of_one[:2], length, of_one[2]):
            return True
    return False


def describe_shapes(work: Work, steps: Sequence[CacheShape]) -> str:
    """Return what was found right, in one sentence without a period."""
    plans = decoder_layers(work.loaded.config)
    text = f"cache layers match the configuration ({len(plans)} layers, {len(steps)} steps)"
    final = next((layer.keys for layer in reversed(steps[-1].layers) if layer.keys), None)
    if final is not None:
        text += f", final shape {list(final)}"
    fed = work.decoder_prompt + len(steps) - 1
    windows = sorted({plan.window for plan in plans if plan.window and plan.window > fed})
    if windows:
        text += f"; windows of {', '.join(map(str, windows))} not filled"
    return text


def _wrong_layers(
    plans: Sequence[LayerPlan],
    first: Sequence[LayerShape],
    layers: Sequence[LayerShape],
    batch_size: int,
    seen: int,
    keeps: Keeps,
) -> tuple[int, str] | None:
    nothing = LayerShape(None, None, None, False, ())
    for index in range(max(len(plans), len(layers))):
        # Past the last layer of the configuration or of the cache, there is nothing.
        plan = plans[index] if index < len(plans) else LayerPlan("none")
        layer = layers[index] if index < len(layers) else nothing
        start = first[index] if index < len(first) else nothing
        wrong = _wrong_layer(plan, start, layer, batch_size, seen, keeps)
        if wrong is not None:
            return index, wrong
    return None


def _wrong_layer(
    plan: LayerPlan,
    first: LayerShape,
    layer: LayerShape,
    batch_size: int,
    seen: int,
    keeps: Keeps,
) -> str | None:
    if layer.states != first.states:
        return f"its states are {_listed(layer.states)}, they were {_listed(first.states)}"
    if plan.kind in ("state", "none"):
        return None if layer.keys is None else f"it has keys {list(layer.keys)}, expected none"
    if plan.kind == "unknown":
        return _wrong_tensors(plan, first, layer, batch_size, None)
    if layer.length is not None and layer.length != seen:
        return f"it reports {layer.length} positions seen, expected {seen}"
    return _wrong_tensors(plan, first, layer, batch_size, keeps(seen, plan.window))


def _wrong_tensors(
    plan: LayerPlan, first: LayerShape, layer: LayerShape, batch_size: int, positions: int | None
) -> str | None:
    if layer.keys is None and layer.values is None and layer.length:
        # Quantized: only the length is visible, and that was right.
        return None
    for name in ("keys", "values"):
        found = getattr(layer, name)
        if found is None or len(found) != 4:
            return f"it has no {name}" if found is None else f"{name} are {list(found)}"
        # What the configuration does not state must at least stay constant.
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
