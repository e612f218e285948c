"""Which cases have other tokens than their partners although rounding alone should not do it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvbench.caches import BASELINE, strategy
from kvbench.plan.case import Case

__all__ = ["differing"]


def differing(members: Iterable[tuple[Case, Collection[str]]]) -> tuple[Case, ...]:
    """The cached cases to look at, of cases that differ in the cache strategy alone.

    Each comes with the hashes of the tokens of its samples.

    Only in float32 and among exact strategies are the same tokens to be expected. With samples
    without a cache, these are the measure; without them every strategy is looked at.
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
