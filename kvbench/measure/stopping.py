"""The stopping rule: how many samples of a case are enough."""

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
        max_seconds: no sample is begun that would take the case past this many seconds; the first
            always is.
    """

    repeats: int | None = None
    min_repeats: int = 5
    max_repeats: int = 30
    min_seconds: float = 3.0
    max_spread: float = 0.05
    max_seconds: float = 600.0

    def done(self, times: Sequence[float]) -> bool:
        """Whether no further sample is wanted after these, in seconds, warm-ups not counted."""
        if self.repeats is not None:
            return len(times) >= self.repeats
        if len(times) >= self.max_repeats:
            return True
        if times and sum(times) + times[-1] > self.max_seconds:
            return True
        return (
            len(times) >= self.min_repeats
            and sum(times) >= self.min_seconds
            and relative_spread(times) < self.max_spread
        )


def relative_spread(times: Sequence[float]) -> float:
    """Interquartile range over median."""
    low, middle, high = np.percentile(times, [25, 50, 75])
    return float((high - low) / middle)
