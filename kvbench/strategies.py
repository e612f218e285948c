"""The old place of the cache strategies; see kvbench.caches."""

from __future__ import annotations

from kvbench.caches import BASELINE, STRATEGIES, CacheStrategy, strategy

__all__ = ["BASELINE", "STRATEGIES", "CacheStrategy", "strategy"]
