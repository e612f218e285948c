"""The entries of all cache strategies: what each is, what it needs, what it keeps. Torch-free."""

from __future__ import annotations

from kvbench.caches.entry import CacheStrategy, KeptLayer, Need, Parameter, Situation
from kvbench.caches.registry import BASELINE, STRATEGIES, strategy

__all__ = [
    "BASELINE",
    "STRATEGIES",
    "CacheStrategy",
    "KeptLayer",
    "Need",
    "Parameter",
    "Situation",
    "strategy",
]
