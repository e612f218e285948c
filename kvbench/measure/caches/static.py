"""Static caches: buffers for all positions, allocated before the first token."""

from __future__ import annotations

from typing import Any

from transformers import EncoderDecoderCache, StaticCache

from kvbench.measure.caches.call import Call

__all__ = ["compiled", "eager", "make_static", "offloaded"]

_COMPILATIONS = 256
"""More combinations of batch size and length than a sweep has."""


def eager(call: Call) -> dict[str, Any]:
    """Return a static cache that is not compiled.

    On CUDA `generate` compiles the model by itself when it gets such a cache. That is turned off
    here: the strategy means the same on every device.
    """
    return {"past_key_values": make_static(call), "disable_compile": True}


def compiled(call: Call) -> dict[str, Any]:
    """Return a static cache and let `generate` compile the decoding steps (CUDA graphs).

    Each batch size and length is compiled separately. Past torch's limit of 8 recompilations, it
    would silently run without compiling.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _COMPILATIONS)
    return {"past_key_values": make_static(call)}


def offloaded(call: Call) -> dict[str, Any]:
    """Return a static cache whose layers are in host memory, with the next layer fetched ahead."""
    return {"past_key_values": make_static(call, offloading=True), "disable_compile": True}


def make_static(call: Call, **options: Any) -> StaticCache | EncoderDecoderCache:
    """Return a new static cache with room for exactly this call's positions.

    Keys and values are `[batch, kv_heads, positions, head_dim]` in each layer, or a window's
    positions. `cache_implementation="static"` would make it as long as the longest that this model
    object has ever used (`_previous_max_cache_length`), which every later step then attends to.
    """
    cache = StaticCache(config=call.config, max_cache_len=call.positions, **options)
    if not call.loaded.is_encoder_decoder:
        return cache
    # All positions of the encoder exist from the start.
    cross = StaticCache(config=call.config, max_cache_len=call.prompt_tokens, **options)
    return EncoderDecoderCache(cache, cross)
