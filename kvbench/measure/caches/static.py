"""Static caches: buffers for all positions, allocated before the first token."""

from __future__ import annotations

from typing import Any

from transformers import EncoderDecoderCache, StaticCache

from kvbench.measure.caches.call import Call

__all__ = ["eager", "make_static"]


def eager(call: Call) -> dict[str, Any]:
    """Return a static cache that is not compiled.

    On CUDA `generate` compiles the model by itself as soon as it sees such a cache, so that it has
    to be told not to: the strategy means the same on every device.
    """
    return {"past_key_values": make_static(call), "disable_compile": True}


def make_static(call: Call, **options: Any) -> StaticCache | EncoderDecoderCache:
    """Return a new static cache that has room for exactly this call's positions.

    Keys and values are `[batch, kv_heads, positions, head_dim]` in each layer, or a window's
    positions. `cache_implementation="static"` would make it as long as the longest that this model
    object ever had (`_previous_max_cache_length`), which every later step then attends to.
    """
    cache = StaticCache(config=call.config, max_cache_len=call.positions, **options)
    if not call.loaded.is_encoder_decoder:
        return cache
    # The encoder's positions are all there from the start.
    cross = StaticCache(config=call.config, max_cache_len=call.prompt_tokens, **options)
    return EncoderDecoderCache(cache, cross)
