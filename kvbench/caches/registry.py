"""The registry of cache strategies, by name."""

from __future__ import annotations

from kvbench.caches.entry import CacheStrategy, kept_nothing
from kvbench.errors import check_choice

__all__ = ["BASELINE", "STRATEGIES", "strategy"]

BASELINE = "off"
"""The strategy that others are compared with."""

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
    )
}


def strategy(name: str) -> CacheStrategy:
    """Return a strategy by its name.

    Raises:
        UserError: no strategy has that name.
    """
    check_choice("cache", "strategy", name, STRATEGIES)
    return STRATEGIES[name]
