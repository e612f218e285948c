"""Derive the expected layers of a cache from the model's configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

__all__ = ["Kind", "LayerPlan", "cross_layers", "decoder_layers"]

Kind = Literal["full", "window", "state", "none", "unknown"]

_KINDS: dict[str, Kind] = {
    "full_attention": "full",
    "attention": "full",
    "indexed_attention": "full",
    "hybrid": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "hybrid_sliding": "window",
    "linear_attention": "state",
    "mamba": "state",
    "conv": "state",
    "moe": "none",
    "mlp": "none",
}
"""Transformers' names of layer types. Any other is `unknown`."""

_LATENT = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
"""Fields of models whose cached vectors have a size of their own."""


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer of a cache.

    Attributes:
        kind: `full` keeps all positions, `window` the last ones, `state` none (it has a state of
            constant size), `none` nothing at all, for layers without attention or with another
            layer's keys and values; `unknown` is for layers that the configuration does not
            describe.
        window: positions that a query sees, itself included, of a `window` layer.
        kv_heads: heads of keys and values; null if the configuration does not state it plainly.
        head_dim: size of one key or value, or null.
    """

    kind: Kind
    window: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None


def decoder_layers(config: PretrainedConfig) -> tuple[LayerPlan, ...]:
    """Return the cache layers of a decoder, or of the self-attention of an encoder-decoder."""
    text = config.get_text_config(decoder=True)
    count = getattr(text, "num_decoder_layers", None) or text.num_hidden_layers
    # Some models have layers that differ in more than their type; the whole configuration then
    # raises.
    layers = text.per_layer_config if getattr(text, "is_heterogeneous", False) else [text] * count
    names = getattr(text, "layer_types", None)
    shared = _shared(text, count)
    return tuple(
        LayerPlan("none")
        if index in shared
        else _layer(layers[index], names[index] if names else None)
        for index in range(count)
    )


def cross_layers(config: PretrainedConfig) -> tuple[LayerPlan, ...]:
    """Return the cache layers of an encoder-decoder's cross-attention: each sees everything."""
    return tuple(
        LayerPlan("full", kv_heads=layer.kv_heads, head_dim=layer.head_dim)
        for layer in decoder_layers(config)
    )


def _layer(config: Any, name: str | None) -> LayerPlan:
    # Without a list of types, a window applies to every layer: Transformers reads it this way.
    window = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    if name is None:
        name = "sliding_attention" if window else "chunked_attention" if chunk else "full_attention"
    kind = _KINDS.get(name, "unknown")
    if kind == "window":
        size = chunk if name == "chunked_attention" else window
        return LayerPlan(kind, size, _kv_heads(config), _head_dim(config))
    if kind in ("full", "unknown"):
        return LayerPlan(kind, None, _kv_heads(config), _head_dim(config))
    return LayerPlan(kind)


def _shared(text: Any, count: int) -> set[int]:
    """Return the layers that use the keys and values of another one."""
    modes = getattr(text, "kv_sharing_modes", None)
    if modes is not None:
        return {index for index, mode in enumerate(modes) if mode == "reuse"}
    shared = getattr(text, "num_kv_shared_layers", None) or 0
    return set(range(count - shared, count))


def _kv_heads(config: Any) -> int | None:
    # Falcon's new architecture has few heads and keeps a copy of each for every query head.
    if _is_latent(config) or getattr(config, "new_decoder_architecture", False):
        return None
    if getattr(config, "multi_query", False):
        return 1
    return _first(config, "num_key_value_heads", "num_attention_heads")


def _head_dim(config: Any) -> int | None:
    if _is_latent(config):
        return None
    stated = _first(config, "head_dim", "d_kv")
    width, heads = _first(config, "hidden_size"), _first(config, "num_attention_heads")
    if stated is not None or width is None or heads is None:
        return stated
    return width // heads


def _is_latent(config: Any) -> bool:
    return any(getattr(config, name, None) for name in _LATENT)


def _first(config: Any, *names: str) -> int | None:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)
