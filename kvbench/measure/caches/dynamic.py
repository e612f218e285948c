"""No cache, and the caches that grow: Transformers makes them itself."""

from __future__ import annotations

from typing import Any

from kvbench.measure.caches.call import Call

__all__ = ["as_the_model_does", "nothing"]


def nothing(call: Call) -> dict[str, Any]:
    """Return no options: `use_cache` is false, and that is all."""
    return {}


def as_the_model_does(call: Call) -> dict[str, Any]:
    """Return no options: `generate` makes the cache that suits the model, T5's and Mamba's too."""
    return {}
