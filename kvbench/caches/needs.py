"""Needs that several strategies share."""

from __future__ import annotations

from kvbench.caches.entry import Need

__all__ = ["CACHE_OBJECTS", "DECODER_ONLY", "NO_STATES", "NO_WINDOWS", "ONE_CALL"]

CACHE_OBJECTS = Need(
    lambda here, _: here.cache_objects,
    "this model creates its own cache and does not accept a Transformers cache object.",
    "cache objects",
)
DECODER_ONLY = Need(
    lambda here, _: not here.encoder_decoder,
    "encoder-decoder models are not supported.",
    "a decoder",
)
NO_WINDOWS = Need(
    lambda here, _: not here.windows,
    "it keeps all positions in every layer, so sliding-window models are not supported.",
    "no sliding window",
)
NO_STATES = Need(
    lambda here, _: here.keys_in_every_layer,
    "it keeps keys and values only, and this model has layers with other state.",
    "attention in every layer",
)
ONE_CALL = Need(
    lambda here, _: here.reuse != "conversation",
    "its cache ends with the call that made it, so it cannot be kept for the next turn.",
    "reuse none or turn",
)
