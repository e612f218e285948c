"""Bodies of cache strategies that only tests have."""

from __future__ import annotations

from typing import Any

from kvbench.measure.caches import Call


def transformers_static(call: Call) -> dict[str, Any]:
    """The static cache that `generate` makes itself."""
    return {"cache_implementation": "static", "disable_compile": True}
