"""Compute the bytes that a cache takes: keys, values, states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kvbench.caches import Held, KeptLayer, strategy
from kvbench.dtypes import dtype_bytes
from kvbench.errors import UserError
from kvbench.theory.architecture import Architecture
from kvbench.theory.layers import Attention, Kept

__all__ = [
    "cache_bytes",
    "cache_bytes_per_token",
    "check_work",
    "held_bytes",
    "per_token_bytes",
    "uses_cache",
]


def cache_bytes(
    architecture: Architecture,
    strategy_name: str,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    dtype: str,
) -> int:
    """Return the exact bytes of the cache after a generation; 0 without one.

    After `n` new tokens a layer of attention has seen `p = prompt_tokens + n - 1` positions: the
    last token is never fed. For each of `batch` sequences it keeps

    - what the strategy's entry says; for `dynamic`:
    - all attention: `p * kv_heads * (key_dim + value_dim)` numbers,
    - a window: the same with `min(p, window - 1)` positions,
    - latent attention: `p * (kv_lora_rank + qk_rope_head_dim)`,
    - linear attention and Mamba: a state of constant size, the recurrent one in float32,
    - cross-attention: the positions of the prompt; self-attention then has `p = n`, since the
      decoder begins with a start position of its own.

    Source: the layers in Transformers' cache_utils.py; a test compares with the tensors of the
    cache after real generations.

    Raises:
        UserError: the strategy or the dtype is unknown, or a size less than 1.
    """
    return held_bytes(architecture, strategy_name, batch, prompt_tokens, new_tokens, dtype).attended


def held_bytes(
    architecture: Architecture,
    strategy_name: str,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    dtype: str,
) -> Held:
    """Return the bytes of the cache after a generation and where they lie; all 0 without one.

    The attended bytes are those of `cache_bytes`. States of constant size and the positions of an
    encoder are in the device's memory.

    Raises:
        UserError: as for `cache_bytes`.
    """
    width = dtype_bytes(dtype)
    check_work(batch=batch, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    entry = strategy(strategy_name)
    if not entry.use_cache:
        return Held(attended=0, device=0)
    first = 1 if architecture.encoder else prompt_tokens
    seen = first + new_tokens - 1
    constant = 0
    growing: list[KeptLayer] = []
    for layer in architecture.layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention):
            # Latent attention keeps one vector for all heads.
            heads = 1 if mixer.latent else mixer.kv_heads
            growing.append(KeptLayer(seen, mixer.kept, mixer.window, width, heads, batch, first))
        else:
            constant += mixer.kept_bytes(width)
        if isinstance(mixer, Kept):
            growing += _growing(mixer, seen, first, batch, width)
            constant += prompt_tokens * mixer.cross * width
        if layer.cross:
            constant += prompt_tokens * layer.cross.kept * width
    held = entry.held(growing)
    return replace(
        held,
        attended=held.attended + batch * constant,
        device=held.device + batch * constant,
    )


def _growing(layer: Kept, seen: int, first: int, batch: int, width: int) -> list[KeptLayer]:
    """Return what grows in a layer of which only the kept numbers are known."""
    wide, heads = dtype_bytes("float32"), layer.kv_heads or 1
    own = KeptLayer(seen, layer.kept, layer.window, width, heads, batch, first)
    more = KeptLayer(seen, layer.other_float32, layer.window, wide, 1, batch, first)
    return [own, more] if layer.other_float32 else [own]


def cache_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Return the cache bytes per token and sequence: `2 * layers * kv_heads * head_dim * b`.

    Each layer adds one key and one value vector of `kv_heads * head_dim` numbers, with `b` bytes
    per number. Layers with a sliding window count until the window is full; layers with a state of
    constant size and cross-attention do not count.

    Source: the shapes `[batch, kv_heads, length, head_dim]` of keys and values in
    Transformers' DynamicCache; a test compares with the tensors of a real cache.

    Raises:
        UserError: theory cannot read the configuration, or the dtype is unknown.
    """
    return per_token_bytes(Architecture.from_config(config), dtype)


def per_token_bytes(architecture: Architecture, dtype: str) -> int:
    """Return the same for an architecture that was already read.

    Raises:
        UserError: the dtype is unknown.
    """
    mixers = [layer.mixer for layer in architecture.layers]
    wide = sum(m.other_float32 for m in mixers if isinstance(m, Kept))
    kept = sum(m.kept for m in mixers if isinstance(m, Attention | Kept))
    return dtype_bytes(dtype) * kept + dtype_bytes("float32") * wide


def uses_cache(strategy_name: str) -> bool:
    """Return whether a step of this strategy reads the positions so far from a cache.

    Raises:
        UserError: there is no such strategy, or theory has no cost model for it.
    """
    entry = strategy(strategy_name)
    if entry.attends not in ("nothing", "seen"):
        raise UserError(
            f"cache: no cost model for the cache strategy '{strategy_name}'.", kind="no_cost_model"
        )
    return entry.attends == "seen"


def check_work(**sizes: int) -> None:
    """Refuse sizes less than 1.

    Raises:
        UserError: a size is less than 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}: {size} is less than 1.", kind="too_few", name=name)
