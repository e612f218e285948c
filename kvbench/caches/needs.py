"""Needs that several strategies share."""

from __future__ import annotations

from kvbench.caches.entry import Need

__all__ = ["CACHE_OBJECTS", "DECODER_ONLY", "NO_STATES", "NO_WINDOWS"]

CACHE_OBJECTS = Need(
    lambda here, _: here.cache_objects,
    "this model makes a cache of its own and takes no cache object of Transformers.",
    "cache objects",
)
DECODER_ONLY = Need(
    lambda here, _: not here.encoder_decoder,
    "it does not take encoder-decoder models.",
    "a decoder",
)
NO_WINDOWS = Need(
    lambda here, _: not here.windows,
    "it keeps all positions of every layer and does not take sliding-window models.",
    "no sliding window",
)
NO_STATES = Need(
    lambda here, _: here.keys_in_every_layer,
    "it keeps keys and values only, and this model has layers that keep something else.",
    "attention in every layer",
)
