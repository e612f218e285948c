"""Sampled: estimate the time of a generation from the time of steps at chosen positions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kvbench.analysis.trace import can_trace, checked_cache_bytes
from kvbench.caches import CacheStrategy
from kvbench.plan.case import Task
from kvbench.records.sample import Sample, sample_of
from kvbench.theory.architecture import Architecture

__all__ = [
    "LEAST_HELD_BACK",
    "Block",
    "Curve",
    "Measured",
    "Times",
    "can_sample",
    "rows_of_steps",
]

LEAST_HELD_BACK = 4
"""With fewer positions to hold back there is no interval."""

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Block:
    """Steps at one position.

    Attributes:
        first: the number of the token that the first of them makes, from 1.
        seconds: for each step, from the token before to its own, as inside of `generate`.
    """

    first: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements for one estimate.

    Attributes:
        starts: short generations from the case's own prompt: seconds to each new token. All have
            the same number of tokens. They include what `generate` does before its first forward.
        tail: seconds that `generate` takes after its last token.
        blocks: steps at chosen positions after those, in any order.
    """

    starts: tuple[tuple[float, ...], ...]
    tail: float
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """The estimate for one length; `low_s` and `high_s` are None if too little is held back."""

    total_s: float
    low_s: float | None
    high_s: float | None
    ttft_s: float
    itl_s: float | None


def can_sample(entry: CacheStrategy) -> bool:
    """Return whether a single step tells how long a step of a long generation takes.

    It does if a step depends only on its position: if one pass is valid for all shorter lengths,
    and nothing is requantized at intervals.
    """
    return can_trace(entry) and not entry.lossy


class Curve:
    """The time of a step against its position, through the measurements, and its sums.

    Between the positions it is a monotone cubic (PCHIP), which does not overshoot. The steps of a
    position count by their mean: a total is a sum, and the fastest or the median step would leave
    out what slow steps add.
    """

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        means: dict[float, list[float]] = {}
        for block in measured.blocks:
            middle = block.first + (len(block.seconds) - 1) / 2
            means.setdefault(middle, []).append(float(np.mean(block.seconds)))
        self._positions = np.array(sorted(means))
        self._seconds = np.array([float(np.mean(means[one])) for one in self._positions])
        self._start = np.mean(np.array(measured.starts), axis=0)
        ends = [block.first + len(block.seconds) - 1 for block in measured.blocks]
        self._reach = max([len(self._start), *ends])

    def times(self, tokens: int) -> Times:
        """Return the estimate for a generation of this many tokens.

        Raises:
            ValueError: no step was measured at that length.
        """
        if tokens > self._reach:
            raise ValueError(f"token {tokens} is past {self._reach}, the last that was measured")
        elapsed = float(self._start[min(tokens, len(self._start)) - 1])
        total = elapsed + self._measured.tail
        after = np.arange(len(self._start) + 1, tokens + 1)
        if len(after):
            total += float(_through(self._positions, self._seconds, after).sum())
        first, margin = float(self._start[0]), self._margin(tokens, elapsed)
        return Times(
            total_s=total,
            low_s=None if margin is None else max(total - margin, 0.0),
            high_s=None if margin is None else total + margin,
            ttft_s=first,
            itl_s=(total - first) / (tokens - 1) if tokens > 1 else None,
        )

    @cached_property
    def held_back(self) -> tuple[float, ...]:
        """The relative error at each inner position of the curve through the others.

        The curve through the others carries their noise as well, so the difference is scaled to the
        noise of one position.
        """
        found = []
        for index in range(1, len(self._positions) - 1):
            others = np.arange(len(self._positions)) != index
            before, at, after = self._positions[index - 1 : index + 2]
            guess = _through(self._positions[others], self._seconds[others], np.array([at]))[0]
            share = (at - before) / (after - before)
            noise = math.sqrt(1 + share**2 + (1 - share) ** 2)
            found.append(float((self._seconds[index] - guess) / self._seconds[index] / noise))
        return tuple(found)

    def _margin(self, tokens: int, elapsed: float) -> float | None:
        """Return half the width of the interval of a total.

        Each position is assumed to be off by as much as those held back, independently, and counts
        for the part of the curve around it. A start is as far off as a position.
        """
        from scipy import stats

        missed = np.array(self.held_back)
        if len(missed) < LEAST_HELD_BACK:
            return None
        parts = np.append(
            self._weights(tokens) * self._seconds, elapsed / math.sqrt(len(self._measured.starts))
        )
        quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(missed)))
        return quantile * float(np.sqrt(np.mean(missed**2)) * np.sqrt(np.sum(parts**2)))

    def _weights(self, tokens: int) -> np.ndarray:
        """Return the number of steps of a total that each position counts for, `[positions]`."""
        steps = np.arange(len(self._start) + 1, tokens + 1)
        units = np.eye(len(self._positions))
        return np.array([np.interp(steps, self._positions, unit).sum() for unit in units])


def rows_of_steps(
    measured: Measured,
    tasks: Iterable[Task],
    *,
    prompt_tokens: int | None = None,
    architecture: Architecture | None = None,
    start_bytes: int | None = None,
    **fields: Any,
) -> tuple[Sample, ...]:
    """Return a row for each task, with `method` sampled.

    There is no whole generation, so `new_tokens`, `output_sha256`, peak memory and energy are null.

    Args:
        measured: the measurements, up to the longest of the tasks.
        tasks: one for each length.
        prompt_tokens: the prompt's length, padding included.
        architecture: for the bytes of the cache; None leaves them null.
        start_bytes: bytes of the cache after a start, to check the arithmetic.
        fields: further columns, the same in all rows.
    """
    curve, rows = Curve(measured), []
    for task in tasks:
        times = curve.times(task.new_tokens)
        size = None
        if start_bytes is not None:
            checked = (len(measured.starts[0]), start_bytes)
            size = checked_cache_bytes(task.case, prompt_tokens, architecture, checked)
        known = fields if prompt_tokens is None else fields | {"prompt_tokens": prompt_tokens}
        rows.append(
            sample_of(
                task,
                **known,
                method="sampled",
                kv_cache_bytes=size,
                total_s=times.total_s,
                total_s_low=times.low_s,
                total_s_high=times.high_s,
                ttft_s=times.ttft_s,
                itl_s=times.itl_s,
                tokens_per_s=task.case.batch_size * task.new_tokens / times.total_s,
            )
        )
    return tuple(rows)


def _through(positions: np.ndarray, seconds: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the monotone cubic through the points; beyond their ends, the end value."""
    from scipy.interpolate import PchipInterpolator

    if len(positions) == 1:
        return np.full(len(at), seconds[0])
    within = np.clip(at, positions[0], positions[-1])
    return np.asarray(PchipInterpolator(positions, seconds)(within))
