"""The entries of all cache strategies: what each is, what it needs, what it keeps. Torch-free."""

from __future__ import annotations

from kvbench.caches.entry import CacheStrategy, KeptLayer, Need, Parameter, Situation
from kvbench.caches.registry import (
    ALL,
    BASELINE,
    PACKAGES,
    STRATEGIES,
    expand,
    may_be_left_out,
    strategy,
)

__all__ = [
    "ALL",
    "BASELINE",
    "PACKAGES",
    "STRATEGIES",
    "CacheStrategy",
    "KeptLayer",
    "Need",
    "Parameter",
    "Situation",
    "expand",
    "may_be_left_out",
    "strategy",
]
