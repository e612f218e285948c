"""Compute the time of each token by position, over the samples of a case."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from kvbench.analysis.cold import cold_starts
from kvbench.records.run import Run
from kvbench.records.sample import latest

__all__ = ["Latency", "latencies"]

_MOST_POINTS = 400
"""A chart cannot show more points than this."""


@dataclass(frozen=True)
class Latency:
    """Seconds between a token and the one before it, against its position from 2.

    All arrays are `[points]`. With more positions than points, each point covers several: its
    median is taken over them, and its band spans their largest and smallest values, to keep every
    spike.

    Attributes:
        positions: the new token, counted from 1; the middle of the positions that a point covers.
        median: over the samples.
        low: first quartile over the samples.
        high: third quartile over the samples.
        samples: how many there are.
    """

    positions: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    samples: int


def latencies(run: Run, case_ids: Iterable[str]) -> dict[str, Latency]:
    """Return the latencies of these cases of a run: warm samples of two tokens or more.

    Raises:
        UserError: tokens.csv is missing or no table of token times.
    """
    wanted = set(case_ids)
    times = _times_by_sample(run)
    found: dict[str, list[np.ndarray]] = {}
    rows = latest(run.samples)
    cold = cold_starts(rows)
    for sample in rows:
        counted = sample.phase == "measure" and sample.status == "ok"
        counted = counted and sample.sample_id not in cold
        if counted and sample.case_id in wanted:
            stamps = times.get(sample.generation_id or sample.sample_id)
            # A table that was cut by hand may lack some samples.
            if stamps is not None and len(stamps) >= sample.max_new_tokens > 1:
                gaps = np.diff(stamps[: sample.max_new_tokens])
                found.setdefault(sample.case_id, []).append(gaps)
    return {case_id: _latency(np.vstack(gaps)) for case_id, gaps in found.items()}


def _times_by_sample(run: Run) -> Mapping[str, np.ndarray]:
    """Return the stamps of each sample in token order, for samples with a complete set."""
    names, codes, tokens, elapsed = run.stamps
    if not len(codes):
        return {}
    begins = np.concatenate([[True], np.diff(codes) != 0])
    if not np.all(begins[1:] | (np.diff(tokens) == 1)):
        # The table was sorted differently by hand.
        order = np.lexsort((tokens, codes))
        codes, tokens, elapsed = codes[order], tokens[order], elapsed[order]
        begins = np.concatenate([[True], np.diff(codes) != 0])
    ends = np.append(np.flatnonzero(begins), len(codes))
    return {
        str(names[codes[start]]): elapsed[start:end]
        for start, end in itertools.pairwise(ends)
        if tokens[start] == 1 and tokens[end - 1] == end - start
    }


def _latency(gaps: np.ndarray) -> Latency:
    """Return the latency from gaps `[samples, new tokens - 1]`."""
    low, median, high = np.percentile(gaps, [25, 50, 75], axis=0)
    positions = np.arange(2, gaps.shape[1] + 2, dtype=float)
    if len(positions) > _MOST_POINTS:
        edges = np.linspace(0, len(positions), _MOST_POINTS + 1).astype(int)[:-1]
        ends = np.append(edges[1:], len(positions))
        spans = [slice(start, end) for start, end in zip(edges, ends, strict=True)]
        positions = np.array([positions[span].mean() for span in spans])
        median = np.array([np.median(median[span]) for span in spans])
        low, high = np.minimum.reduceat(low, edges), np.maximum.reduceat(high, edges)
    return Latency(positions, median, low, high, len(gaps))
