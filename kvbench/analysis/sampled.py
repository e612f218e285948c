"""Sampled: the time of a generation, estimated from the time of steps at chosen positions."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kvbench.caches import CacheStrategy
from kvbench.plan.case import Task
from kvbench.records.sample import Sample, sample_of

__all__ = [
    "LEAST_HELD_BACK",
    "MOST_POSITIONS",
    "Estimate",
    "Measured",
    "can_sample",
    "positions_of",
    "rows_of_steps",
    "start_tokens",
]

MOST_POSITIONS = 24
"""So many positions are measured at most, however long the generation."""

_TOKENS_PER_POSITION = 24
"""Of a shorter generation there is one position for so many tokens, so that sampling stays cheap."""

_LEAST_POSITIONS = 8

_START_TOKENS = 16
"""So many tokens at the beginning are generated and timed as they are, at most; eight at least."""

LEAST_HELD_BACK = 4
"""Fewer positions that can be held back give no interval."""

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured for one estimate.

    Attributes:
        starts: short generations from the case's own prompt: seconds to each new token. All have
            the same number of tokens. They hold what `generate` does before its first forward.
        tail: seconds that `generate` takes after its last token.
        steps: a pair for each measured step: the number of the token that it makes, from 1, and
            the seconds between the token before and this one, as inside of `generate`. There may
            be several of one position.
    """

    starts: tuple[tuple[float, ...], ...]
    tail: float
    steps: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Times:
    """The estimate for one length; `low` and `high` are None where nothing could be held back."""

    total_s: float
    low_s: float | None
    high_s: float | None
    ttft_s: float
    itl_s: float | None


def can_sample(strategy: CacheStrategy) -> bool:
    """Return whether a single step tells what a step of a long generation takes.

    With buffers that are sized to the whole length, and with code that is compiled, it does not.
    """
    return strategy.warmup != "full" and not strategy.compiles and strategy.attends != "buffer"


def start_tokens(lengths: Iterable[int]) -> int:
    """Return how many tokens at the beginning are generated as they are, for these lengths."""
    lengths = tuple(lengths)
    return min(max(min(lengths), _START_TOKENS // 2), _START_TOKENS, max(lengths))


def positions_of(first: int, last: int) -> tuple[int, ...]:
    """Return the tokens whose steps are measured, rising; both ends are among them.

    They lie closer at the beginning, evenly in the square root: short lengths rest on few of them.
    """
    if last <= first:
        return (last,) if last == first else ()
    wanted = min(MOST_POSITIONS, max(_LEAST_POSITIONS, (last - first) // _TOKENS_PER_POSITION))
    roots = np.linspace(math.sqrt(first), math.sqrt(last), wanted)
    return tuple(sorted({first, last, *(round(root * root) for root in roots)}))


class Estimate:
    """The curve of the time per token through the measured steps, and its sums.

    Between the measured steps the curve is a monotone cubic (PCHIP): it does not overshoot. What
    is measured several times at one position counts by its mean, since a total is a sum, and the
    quickest or the middle one would leave out what slow steps add.
    """

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        times: dict[float, list[float]] = {}
        for position, seconds in measured.steps:
            times.setdefault(position, []).append(seconds)
        self._positions = np.array(sorted(times))
        self._seconds = np.array([float(np.mean(times[one])) for one in self._positions])
        self._start = np.mean(np.array(measured.starts), axis=0)

    def times(self, tokens: int) -> Times:
        """Return the estimate for a generation of so many tokens.

        Raises:
            ValueError: no step was measured that far.
        """
        beginning = len(self._start)
        if tokens > beginning and (not len(self._positions) or tokens > self._positions[-1]):
            raise ValueError(f"no step was measured as far as token {tokens}")
        elapsed = float(self._start[min(tokens, beginning) - 1])
        rest = self._steps(np.arange(beginning + 1, tokens + 1)) if tokens > beginning else None
        total = elapsed + (0.0 if rest is None else float(rest.sum())) + self._measured.tail
        first = float(self._start[0])
        margin = self._margin(tokens, elapsed)
        return Times(
            total_s=total,
            low_s=None if margin is None else max(total - margin, 0.0),
            high_s=None if margin is None else total + margin,
            ttft_s=first,
            itl_s=(total - first) / (tokens - 1) if tokens > 1 else None,
        )

    def _steps(self, tokens: np.ndarray) -> np.ndarray:
        """Return the seconds of each of these steps, `[tokens]`."""
        return _curve(self._positions, self._seconds, tokens)

    @cached_property
    def held_back(self) -> tuple[float, ...]:
        """Return for each inner position how far the curve through the others misses it.

        As a share of the time there. The curve through the others carries their noise as well, so
        that the difference is scaled to that of one position.
        """
        found = []
        for index in range(1, len(self._positions) - 1):
            others = np.arange(len(self._positions)) != index
            at = self._positions[index]
            guess = _curve(self._positions[others], self._seconds[others], np.array([at]))[0]
            before, after = self._positions[index - 1], self._positions[index + 1]
            share = (at - before) / (after - before)
            scale = math.sqrt(1 + share**2 + (1 - share) ** 2)
            found.append(float((self._seconds[index] - guess) / self._seconds[index] / scale))
        return tuple(found)

    def _margin(self, tokens: int, elapsed: float) -> float | None:
        """Return half the width of the interval of a total.

        Each position is taken to be off by what those held back were off, on its own, and counts
        for the part of the curve around it; the beginning is as far off as one position.
        """
        from scipy import stats

        residuals = np.array(self.held_back)
        if len(residuals) < LEAST_HELD_BACK:
            return None
        noise = float(np.sqrt(np.mean(residuals**2)))
        shares = self._weights(tokens) * self._seconds
        shares = np.append(shares, elapsed / math.sqrt(len(self._measured.starts)))
        quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(residuals)))
        return quantile * noise * float(np.sqrt(np.sum(shares**2)))

    def _weights(self, tokens: int) -> np.ndarray:
        """Return for how many steps each position counts in a total, `[positions]`."""
        steps = np.arange(len(self._start) + 1, tokens + 1)
        unit = np.eye(len(self._positions))
        return np.array([np.interp(steps, self._positions, row).sum() for row in unit])


def _curve(positions: np.ndarray, seconds: np.ndarray, at: np.ndarray) -> np.ndarray:
    from scipy.interpolate import PchipInterpolator

    if len(positions) == 1:
        return np.full(len(at), seconds[0])
    return np.asarray(PchipInterpolator(positions, seconds, extrapolate=True)(at))


def rows_of_steps(
    measured: Measured, tasks: Iterable[Task], **fields: Any
) -> tuple[Sample, ...]:
    """Return a row for each task, with `method` sampled.

    No tokens come out, so that `new_tokens` and `output_sha256` are null.

    Args:
        measured: what was measured, as far as the longest of the tasks.
        tasks: one for each length.
        fields: further columns, the same in all rows.
    """
    curve = Estimate(measured)
    rows = []
    for task in tasks:
        times = curve.times(task.new_tokens)
        rows.append(
            sample_of(
                task,
                **fields,
                method="sampled",
                total_s=times.total_s,
                total_s_low=times.low_s,
                total_s_high=times.high_s,
                ttft_s=times.ttft_s,
                itl_s=times.itl_s,
                tokens_per_s=task.case.batch_size * task.new_tokens / times.total_s,
            )
        )
    return tuple(rows)
