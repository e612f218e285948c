"""The cache strategies: one entry each, with all that the rest of kvbench asks of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kvbench.errors import check_choice

__all__ = ["BASELINE", "STRATEGIES", "CacheStrategy", "strategy"]


@dataclass(frozen=True)
class CacheStrategy:
    """One way to keep, or not to keep, keys and values between decoding steps.

    Attributes:
        name: as written on the command line and in the `cache` column.
        use_cache: Transformers' flag of that name.
        description: one line for help and docs.
        generate_options: keyword arguments for `generate`, besides `use_cache`.
        lossy: whether the tokens may differ from those without a cache.
        warmup: `short` where nothing compiles and the first tokens warm everything up, `full`
            where buffers and compiled code depend on the whole length.
    """

    name: str
    use_cache: bool
    description: str
    generate_options: Mapping[str, Any] = field(default_factory=dict)
    lossy: bool = False
    warmup: Literal["short", "full"] = "short"


STRATEGIES: dict[str, CacheStrategy] = {
    entry.name: entry
    for entry in (
        CacheStrategy(
            name="off",
            use_cache=False,
            description="No cache: each step computes the keys and values of all positions again.",
        ),
        CacheStrategy(
            name="dynamic",
            use_cache=True,
            description="Transformers' default: keys and values are kept and grow by one position "
            "a step.",
        ),
    )
}

BASELINE = "off"
"""The strategy that a speed-up is measured against."""


def strategy(name: str) -> CacheStrategy:
    """Look a strategy up by name.

    Raises:
        UserError: no strategy has that name.
    """
    check_choice("cache", "strategy", name, STRATEGIES)
    return STRATEGIES[name]
