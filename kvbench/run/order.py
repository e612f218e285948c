"""The order of the work: rounds over the cases, shuffled, comparison groups kept together."""

from __future__ import annotations

import random
from collections.abc import Iterable

from kvbench.plan.case import Case

__all__ = ["shuffled"]


def shuffled(pairs: Iterable[tuple[Case, ...]], rng: random.Random) -> tuple[tuple[Case, ...], ...]:
    """Return the groups in a new order, and the members of each in a new order.

    A drift of the machine then affects no strategy and no length more than another.
    """
    mixed = [tuple(rng.sample(pair, len(pair))) for pair in pairs]
    rng.shuffle(mixed)
    return tuple(mixed)
