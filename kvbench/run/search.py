"""Search for the largest size that fits: double until one does not, then bisect. No engine here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Reached", "largest_that_fits"]


@dataclass(frozen=True, slots=True)
class Reached:
    """The end of a search.

    Attributes:
        largest: the largest size that fits; 0 if none does.
        fails_at: the smallest size that does not fit; null if all that were allowed fit.
        attempts: how many sizes were tried.
    """

    largest: int
    fails_at: int | None
    attempts: int


def largest_that_fits(
    fits: Callable[[int], bool],
    *,
    first: int,
    most: int,
    least: int = 1,
    step: int = 1,
    parts: int | None = None,
) -> Reached:
    """Return the largest size that fits, to within `step`; sizes are tried once each.

    A large size takes long to try, so `parts` allows the last two to be further apart.

    Args:
        fits: tries a size. If one does not fit, no larger one is assumed to.
        first: the size to begin with.
        most: the largest size to try.
        least: the smallest size to try.
        step: how far apart the last two sizes may be.
        parts: they may also be apart by the size over this many; by default only by `step`.
    """
    low, high, attempts = 0, None, 0
    size = min(first, most)
    while high is None and low < most:
        attempts += 1
        if fits(size):
            low, size = size, min(2 * size, most)
        else:
            high = size
    while high is not None:
        below = max(low, least - 1)
        if high - below <= max(step, low // parts if parts else 0):
            break
        middle = (below + high) // 2
        # On multiples of the step, where there is one in between.
        middle = middle - middle % step if middle - middle % step > below else middle
        attempts += 1
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Reached(low, high, attempts)
