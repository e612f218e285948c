"""The order of the work: rounds over the cases, shuffled, the arms of a pair side by side."""

from __future__ import annotations

import random
from collections.abc import Iterable

from kvbench.plan.case import Case

__all__ = ["pair_up", "shuffled"]


def pair_up(cases: Iterable[Case]) -> tuple[tuple[Case, ...], ...]:
    """The cases as pairs: those that differ in the cache strategy alone stand together."""
    pairs: dict[str, list[Case]] = {}
    for case in cases:
        pairs.setdefault(case.pair_key, []).append(case)
    return tuple(tuple(pair) for pair in pairs.values())


def shuffled(pairs: Iterable[tuple[Case, ...]], rng: random.Random) -> tuple[tuple[Case, ...], ...]:
    """The pairs in a new order, and each pair's arms in a new order.

    A drift of the machine then falls on no arm and on no length more than on another.
    """
    mixed = [tuple(rng.sample(pair, len(pair))) for pair in pairs]
    rng.shuffle(mixed)
    return tuple(mixed)
