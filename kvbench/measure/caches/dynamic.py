"""No cache, and the growing caches that Transformers makes itself."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache, EncoderDecoderCache

from kvbench.measure.caches.call import Call

__all__ = ["as_the_model_does", "nothing", "offloaded", "without_windows"]


def nothing(call: Call) -> dict[str, Any]:
    """Return no options: `use_cache` is false, and nothing else is needed."""
    return {}


def as_the_model_does(call: Call) -> dict[str, Any]:
    """Return no options: `generate` makes the cache that suits the model, T5 and Mamba included."""
    return {}


def without_windows(call: Call) -> dict[str, Any]:
    """Return a cache that keeps all positions in every layer, whatever the model's window.

    A DynamicCache made without a configuration ignores windows.
    """
    return {"past_key_values": DynamicCache()}


def offloaded(call: Call) -> dict[str, Any]:
    """Return a cache whose layers are in host memory, with the next layer fetched ahead."""
    cache = DynamicCache(config=call.config, offloading=True)
    if not call.loaded.is_encoder_decoder:
        return {"past_key_values": cache}
    cross = DynamicCache(config=call.config, offloading=True)
    return {"past_key_values": EncoderDecoderCache(cache, cross)}
