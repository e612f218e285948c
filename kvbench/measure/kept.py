"""A cache that outlives the generation that filled it, for the next turn of a conversation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kvbench.caches import CacheStrategy
from kvbench.errors import UserError
from kvbench.measure.caches import Call, make_cache

__all__ = ["Kept"]


@dataclass
class Kept:
    """A cache that is kept from one call of `generate` to the next.

    A conversation only grows, so the cache is continued and never cropped. Buffers are made for
    `room` positions at once.

    Attributes:
        room: the positions that the last generation will have fed.
        options: the keyword arguments of `generate` that pass the cache; None before the first one.
    """

    room: int
    options: dict[str, Any] | None = None

    def options_for(self, strategy: CacheStrategy, call: Call) -> dict[str, Any]:
        """Return the keyword arguments of `generate` for the next generation.

        Raises:
            UserError: the strategy does not use `generate`.
        """
        if self.options is None:
            # Buffers have to be large enough for the last generation.
            whole = replace(call, new_tokens=self.room - call.prompt_tokens + 1)
            made = make_cache(strategy, whole)
            if not isinstance(made, dict):
                made.close()
                raise UserError(
                    f"{strategy.name}: it runs its own generation loop, and its cache does not "
                    "outlive the call.",
                    kind="cache_unmet",
                    cache=strategy.name,
                )
            self.options = made
        return self.options

    def take(self, cache: Any) -> None:
        """Keep the cache of a finished generation; `generate` may have made it."""
        self.options = {**(self.options or {}), "past_key_values": cache}

    @property
    def positions(self) -> int:
        """How many positions the cache has seen."""
        cache = (self.options or {}).get("past_key_values")
        return 0 if cache is None else int(cache.get_seq_length())
