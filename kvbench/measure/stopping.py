"""The stopping rule: how many samples of the arms of a pair are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["StoppingRule", "relative_spread"]


@dataclass(frozen=True)
class StoppingRule:
    """A fixed number of samples, or: enough of them, long enough together, close enough.

    Attributes:
        repeats: a fixed number; the other fields do not matter then.
        min_repeats: at least this many samples.
        max_repeats: at most this many.
        min_seconds: at least this many seconds of samples.
        max_spread: interquartile range over median to be reached.
        max_seconds: no sample is begun that is likely to take its case past this many seconds; the
            first always is.
    """

    repeats: int | None = None
    min_repeats: int = 6
    max_repeats: int = 30
    min_seconds: float = 3.0
    max_spread: float = 0.05
    max_seconds: float = 600.0

    def done(self, *arms: Sequence[float]) -> bool:
        """Whether no further round is wanted after these times of the arms of a pair, in seconds.

        The arms go on together, until each has enough or one may not go on: samples of one arm that
        stand alone have seen another hour of the machine than those that they are compared with. An
        arm that is behind, since a round was broken off, is to catch up. Warm-ups do not count.
        """
        most = max(map(len, arms))
        if any(len(times) < most and not self.spent(times) for times in arms):
            return False
        return any(map(self.spent, arms)) or all(map(self._enough, arms))

    def spent(self, times: Sequence[float]) -> bool:
        """Whether an arm may not go on: it has the most samples, or its time is up."""
        if self.repeats is not None:
            return len(times) >= self.repeats
        if len(times) >= self.max_repeats:
            return True
        # The median, since one hiccup says nothing of the next sample.
        return len(times) > 0 and sum(times) + float(np.median(times)) > self.max_seconds

    def _enough(self, times: Sequence[float]) -> bool:
        return (
            self.repeats is None
            and len(times) >= self.min_repeats
            and sum(times) >= self.min_seconds
            and relative_spread(times) < self.max_spread
        )


def relative_spread(times: Sequence[float]) -> float:
    """Interquartile range over median."""
    low, middle, high = np.percentile(times, [25, 50, 75])
    return float((high - low) / middle)
