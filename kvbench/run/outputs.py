"""Find cases with different tokens than their partners where rounding alone should not do that."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvbench.caches import BASELINE, strategy
from kvbench.plan.axes import AXES
from kvbench.plan.case import Case

__all__ = ["differing"]


def differing(members: Iterable[tuple[Case, Collection[str]]]) -> tuple[Case, ...]:
    """Return the cases to check, among those of a comparison group.

    Each comes with the hashes of the tokens of its samples.

    Equal tokens are expected only in float32 and among exact strategies, for both drivers. Samples
    of `generate` without a cache are the reference; without a baseline, every strategy is checked.
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
