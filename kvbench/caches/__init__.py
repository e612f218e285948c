"""The entries of all cache strategies: what each is, needs, and keeps. Torch-free."""

from __future__ import annotations

from kvbench.caches.entry import CacheStrategy, Need, Parameter, Situation
from kvbench.caches.held import Held
from kvbench.caches.kept import KeptLayer
from kvbench.caches.registry import (
    ALL,
    BASELINE,
    GROUPS,
    PACKAGES,
    STRATEGIES,
    expand,
    may_be_left_out,
    strategy,
)
from kvbench.caches.yours import installed_names, needs_trust

__all__ = [
    "ALL",
    "BASELINE",
    "GROUPS",
    "PACKAGES",
    "STRATEGIES",
    "CacheStrategy",
    "Held",
    "KeptLayer",
    "Need",
    "Parameter",
    "Situation",
    "expand",
    "installed_names",
    "may_be_left_out",
    "needs_trust",
    "strategy",
]
