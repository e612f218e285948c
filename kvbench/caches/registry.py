"""The registry of cache strategies, by name."""

from __future__ import annotations

from kvbench.caches.entry import CacheStrategy, KeptLayer, Need, kept_nothing
from kvbench.errors import UserError, check_choice
from kvbench.text import clip

__all__ = ["BASELINE", "STRATEGIES", "strategy"]

BASELINE = "off"
"""The strategy that others are compared with."""

CACHE_OBJECTS = Need(
    lambda here, _: here.cache_objects,
    "this model makes a cache of its own and takes no cache object of Transformers.",
)


def kept_whole(layer: KeptLayer) -> int:
    """Return the bytes of a buffer for all positions that are fed, or of a whole window."""
    positions = layer.seen if layer.window is None else min(layer.seen, layer.window)
    return positions * layer.numbers * layer.width


STRATEGIES: dict[str, CacheStrategy] = {
    entry.name: entry
    for entry in (
        CacheStrategy(
            name="off",
            description="No cache: each step computes the keys and values of all positions again.",
            body="kvbench.measure.caches.dynamic:nothing",
            use_cache=False,
            attends="nothing",
            kept=kept_nothing,
        ),
        CacheStrategy(
            name="dynamic",
            description="Transformers' default: keys and values are kept and grow by one position "
            "a step.",
            body="kvbench.measure.caches.dynamic:as_the_model_does",
        ),
        CacheStrategy(
            name="static",
            description="Preallocated, not compiled: buffers for all positions from the start; "
            "each step attends to the whole buffer.",
            body="kvbench.measure.caches.static:eager",
            warmup="full",
            attends="buffer",
            needs=(CACHE_OBJECTS,),
            kept=kept_whole,
        ),
    )
}


def strategy(name: str) -> CacheStrategy:
    """Return a strategy by its name, with its parameters: `quantized:backend=fp8`.

    Raises:
        UserError: no strategy has that name, or a parameter is wrong.
    """
    head, *parts = name.split(":")
    check_choice("cache", "strategy", head, STRATEGIES)
    entry = STRATEGIES[head]
    if not (parts or entry.parameters):
        return entry
    texts: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key in texts:
            raise UserError(f"cache: '{clip(name)}': write parameters once each, as name=value.")
        texts[key] = value
    return entry.with_settings(texts)
