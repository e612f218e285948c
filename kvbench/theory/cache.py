"""Bytes of keys and values that one position adds to the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvbench.errors import UserError

__all__ = ["DTYPE_BYTES", "cache_bytes_per_token"]

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_LAYERS = ("num_hidden_layers", "n_layer")
_WIDTH = ("hidden_size", "n_embd")
_HEADS = ("num_attention_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", *_HEADS)


def cache_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Bytes that the cache grows by per token and sequence: `2 * layers * kv_heads * head_dim * b`.

    One key and one value vector of `kv_heads * head_dim` in each layer, `b` bytes a value. Layers
    with a sliding window are counted as long as the window is not full.

    Source: the shapes `[batch, kv_heads, length, head_dim]` of keys and values in
    Transformers' DynamicCache; a test compares with the tensors of a real cache.

    Raises:
        UserError: the configuration lacks a field, or the dtype is unknown.
    """
    if dtype not in DTYPE_BYTES:
        raise UserError(f"dtype: '{dtype}' is not one of {', '.join(DTYPE_BYTES)}.")
    heads = _read(config, _HEADS)
    head_dim = config.get("head_dim") or _read(config, _WIDTH) // heads
    values = 2 * _read(config, _LAYERS) * _read(config, _KV_HEADS) * int(head_dim)
    return values * DTYPE_BYTES[dtype]


def _read(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        if config.get(name) is not None:
            return int(config[name])
    raise UserError(f"The configuration has none of {', '.join(names)}.")
