"""The order of the work: rounds over the cases, shuffled, the arms of a pair side by side."""

from __future__ import annotations

import random
from collections.abc import Iterable

from kvbench.plan.case import Case

__all__ = ["shuffled"]


def shuffled(pairs: Iterable[tuple[Case, ...]], rng: random.Random) -> tuple[tuple[Case, ...], ...]:
    """The pairs in a new order, and each pair's arms in a new order.

    A drift of the machine then falls on no arm and on no length more than on another.
    """
    mixed = [tuple(rng.sample(pair, len(pair))) for pair in pairs]
    rng.shuffle(mixed)
    return tuple(mixed)
