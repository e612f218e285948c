"""The stopping rule: how many samples of a comparison group are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["StoppingRule", "relative_spread"]


@dataclass(frozen=True)
class StoppingRule:
    """Stop after a fixed number of samples, or once they are enough, long enough and close enough.

    Attributes:
        repeats: a fixed number; the other fields are then ignored.
        min_repeats: at least this many samples.
        max_repeats: at most this many.
        min_seconds: at least this many seconds of samples.
        max_spread: the target interquartile range over median.
        max_seconds: no sample starts that is likely to take its case past this many seconds; the
            first always starts.
    """

    repeats: int | None = None
    min_repeats: int = 6
    max_repeats: int = 30
    min_seconds: float = 3.0
    max_spread: float = 0.05
    max_seconds: float = 600.0

    def done(
        self,
        *arms: Sequence[float],
        costs: Sequence[Sequence[float]] | None = None,
        generated: Sequence[float] | None = None,
    ) -> bool:
        """Return whether no further round is needed after these times, in seconds, of a group.

        All members continue together, until each has enough samples or one may not continue:
        samples that one member takes alone are taken at a different time than those that they are
        compared with. A member that is behind, because a round was interrupted, catches up.
        Warm-ups do not count.

        Args:
            arms: the times of each member.
            costs: how long taking each of these samples took, where that is another time.
            generated: for each member, the seconds of the generations that its times are read from,
                where they are longer than its times. `min_seconds` then applies to them: otherwise
                a short length would require many long generations.
        """
        costs = arms if costs is None else costs
        most = max(map(len, costs))
        if any(len(times) < most and not self.spent(times) for times in costs):
            return False
        seconds = [sum(times) for times in costs] if generated is None else generated
        return any(map(self.spent, costs)) or all(map(self._enough, arms, seconds))

    def spent(self, costs: Sequence[float]) -> bool:
        """Return whether a member must stop: it has the maximum of samples, or its time is up.

        Args:
            costs: how long taking each of its samples took.
        """
        if self.repeats is not None:
            return len(costs) >= self.repeats
        if len(costs) >= self.max_repeats:
            return True
        # Use the median, since one hiccup says nothing about the next sample.
        return len(costs) > 0 and sum(costs) + float(np.median(costs)) > self.max_seconds

    def _enough(self, times: Sequence[float], seconds: float) -> bool:
        return (
            self.repeats is None
            and len(times) >= self.min_repeats
            and seconds >= self.min_seconds
            and relative_spread(times) < self.max_spread
        )


def relative_spread(times: Sequence[float]) -> float:
    """Return the interquartile range over the median."""
    low, middle, high = np.percentile(times, [25, 50, 75])
    return float((high - low) / middle)
