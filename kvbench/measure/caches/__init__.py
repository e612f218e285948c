"""The bodies of the cache strategies: each makes the cache for one generation.

A body is a function from a `Call` to keyword arguments of `generate`, or to a driver that replaces
it. The entry names it, and it makes a new cache for each call.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any, cast

from kvbench.caches import PACKAGES, CacheStrategy, Situation
from kvbench.device_kinds import kind_of
from kvbench.measure.caches.call import Body, Call, Driven, Driver, Look
from kvbench.measure.packages import installed
from kvbench.models.load import LoadedModel

__all__ = ["Body", "Call", "Driven", "Driver", "Look", "make_cache", "situation_of"]


def make_cache(strategy: CacheStrategy, call: Call) -> dict[str, Any] | Driver:
    """Return the keyword arguments of `generate` that make it use a strategy's cache.

    A strategy that does not use `generate` returns the driver that replaces it.
    """
    module, _, name = strategy.body.partition(":")
    body = cast("Body", getattr(importlib.import_module(module), name))
    return body(dataclasses.replace(call, settings=strategy.settings))


_PAGED_ATTENTION = ("eager", "sdpa", "flash_attention", "paged|eager")
"""What `switch_to_cb_friendly_attn` in Transformers accepts."""


@functools.cache
def _versions() -> dict[str, str]:
    # Cached: it is asked before every sample and cannot change during the process.
    return installed(PACKAGES)


def situation_of(loaded: LoadedModel, driver: str = "generate") -> Situation:
    """Return what a strategy's needs are checked against, for a loaded model and a driver."""
    text = loaded.config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or ()
    # Older configurations have one window for all layers and no list of layer types.
    window = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None)
    windows = any("sliding" in kind or "chunked" in kind for kind in kinds)
    model: Any = loaded.model
    return Situation(
        device=kind_of(str(loaded.device)).name,
        versions=_versions(),
        encoder_decoder=loaded.is_encoder_decoder,
        windows=windows or bool(not kinds and window),
        sees_all="full_attention" in kinds or not (kinds or window),
        key_numbers=_key_numbers(text),
        pages=bool(getattr(model, "_supports_attention_backend", False))
        and set(kinds) <= {"full_attention", "sliding_attention"}
        and loaded.attention.startswith(_PAGED_ATTENTION),
        cache_objects=bool(model._supports_default_dynamic_cache()),
        dtype=loaded.key.dtype,
        keys_in_every_layer=_keys_in_every_layer(text),
        driver=driver,
    )


def _key_numbers(text: Any) -> int | None:
    """Return how many numbers the keys of a position have in a layer; None if uncertain."""
    if getattr(text, "kv_lora_rank", None):
        return None
    heads = getattr(text, "num_attention_heads", None)
    width = getattr(text, "head_dim", None)
    if width is None and heads:
        width = text.hidden_size // heads
    kept = getattr(text, "num_key_value_heads", None) or heads
    return kept * width if kept and width else None


_KEYS_ALONE = ("full_attention", "attention", "sliding_attention", "chunked_attention")
"""Transformers' names of layers that keep keys and values, and nothing else."""


def _keys_in_every_layer(text: Any) -> bool:
    kinds = getattr(text, "layer_types", None) or ()
    shared = getattr(text, "kv_sharing_modes", None) or getattr(text, "num_kv_shared_layers", None)
    return not shared and all(kind in _KEYS_ALONE for kind in kinds)
