"""The bodies of the cache strategies: each makes the cache for one generation.

A body is a function from a `Call` to keyword arguments of `generate`, or to a driver that replaces
it. The entry names it, and it makes a new cache for each call.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from kvbench.bodies import named_body
from kvbench.caches import CacheStrategy
from kvbench.measure.caches.call import Body, Call, Driven, Driver, Look
from kvbench.measure.caches.situation import situation_of

__all__ = ["Body", "Call", "Driven", "Driver", "Look", "make_cache", "situation_of"]


def make_cache(strategy: CacheStrategy, call: Call) -> dict[str, Any] | Driver:
    """Return the keyword arguments of `generate` that make it use a strategy's cache.

    A strategy that does not use `generate` returns the driver that replaces it.
    """
    body = cast("Body", named_body(strategy.body))
    return body(dataclasses.replace(call, settings=strategy.settings))
