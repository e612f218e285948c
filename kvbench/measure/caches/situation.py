"""What the needs of strategies are checked against, read from a loaded model."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from kvbench.caches import PACKAGES, Situation
from kvbench.device_kinds import kind_of
from kvbench.measure.packages import installed
from kvbench.models.load import LoadedModel

__all__ = ["situation_of"]

_NO_PAGES = ("nemotron", "doge")
"""Models whose attention ignores the pages that it is given."""

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
        pages=_takes_pages(loaded, text),
        cache_objects=bool(model._supports_default_dynamic_cache())
        and "past_key_values" in inspect.signature(model.forward).parameters,
        dtype=loaded.key.dtype,
        keys_in_every_layer=not _shares_keys(text) and not _has_states(text),
        has_states=_has_states(text),
        takes_buffers=text.model_type != "gpt_neo" and not getattr(text, "alibi", False),
        takes_fewer_keys=text.model_type != "bloom" and not getattr(text, "alibi", False),
        driver=driver,
    )


def _takes_pages(loaded: LoadedModel, text: Any) -> bool:
    kinds = set(getattr(text, "layer_types", None) or ())
    return (
        bool(getattr(loaded.model, "_supports_attention_backend", False))
        and kinds <= {"full_attention", "sliding_attention"}
        and text.model_type not in _NO_PAGES
        # Keys and values differ in size, but pages do not.
        and not getattr(text, "kv_lora_rank", None)
        # Paged attention would leave out the cap and compute other logits.
        and not getattr(text, "attn_logit_softcapping", None)
        and loaded.attention.startswith(_PAGED_ATTENTION)
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


def _has_states(text: Any) -> bool:
    return any(kind not in _KEYS_ALONE for kind in getattr(text, "layer_types", None) or ())


def _shares_keys(text: Any) -> bool:
    shared = getattr(text, "kv_sharing_modes", None) or getattr(text, "num_kv_shared_layers", None)
    return bool(shared)
