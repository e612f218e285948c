"""Which cases have other tokens than their partners although rounding alone should not do it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvbench.caches import BASELINE, strategy
from kvbench.plan.axes import AXES
from kvbench.plan.case import Case

__all__ = ["differing"]


def differing(members: Iterable[tuple[Case, Collection[str]]]) -> tuple[Case, ...]:
    """The cases to look at, of a comparison group.

    Each comes with the hashes of the tokens of its samples.

    Only in float32 and among exact strategies are the same tokens to be expected, whatever calls
    the model. With samples without a cache, those that `generate` made are the measure; without
    any, every strategy is looked at.
    """
    hashes: dict[Case, set[str]] = {}
    for case, found in members:
        if found and case.dtype == "float32" and not strategy(case.cache).lossy:
            hashes[case] = set(found)
    if len(set().union(*hashes.values())) < 2:
        return ()
    baselines = [case for case in hashes if case.cache == BASELINE]
    off = min(baselines, key=lambda case: AXES["driver"].rank(case.driver), default=None)
    return tuple(case for case, found in hashes.items() if off is None or found != hashes[off])
