"""Find cases with different tokens than their partners where rounding alone should not do that."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvbench.caches import BASELINE, strategy
from kvbench.plan.case import Case

__all__ = ["differing"]


def differing(members: Iterable[tuple[Case, Collection[str]]]) -> tuple[Case, ...]:
    """Return the cached cases to check, among cases that differ only in the cache strategy.

    Each comes with the hashes of the tokens of its samples.

    Equal tokens are expected only in float32 and among exact strategies. Samples without a cache
    are the reference; without any, every strategy is checked.
    """
    hashes: dict[Case, set[str]] = {}
    for case, found in members:
        if found and case.dtype == "float32" and not strategy(case.cache).lossy:
            hashes[case] = set(found)
    if len(set().union(*hashes.values())) < 2:
        return ()
    off = next((found for case, found in hashes.items() if case.cache == BASELINE), None)
    return tuple(
        case
        for case, found in hashes.items()
        if case.cache != BASELINE and (off is None or found != off)
    )
