"""Find cold samples: the first of a case in a process, when it is far slower than the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvbench.records.sample import Sample

__all__ = ["COLD_FACTOR", "COLD_LATER", "cold_rows", "cold_starts"]

COLD_FACTOR = 1.5
"""A first sample is cold if it takes more than this many times as long as the slowest later one."""

COLD_LATER = 2
"""This many later samples are needed before a first sample can be called cold."""


def cold_starts(samples: Iterable[Sample]) -> frozenset[str]:
    """Return the ids of cold samples.

    Only the first counted sample of a case in a worker process can be one. It is slow for a known
    reason (kernel selection, filling caches), not by chance, so leaving it out does not favor fast
    samples.

    Args:
        samples: rows of a run, in the order in which they were written; only counted ones
            (phase `measure`, status `ok`) matter.
    """
    by_process: dict[tuple[str, int, int], list[Sample]] = {}
    for sample in samples:
        if sample.phase == "measure" and sample.status == "ok" and sample.total_s is not None:
            key = (sample.case_id, sample.session, sample.worker)
            by_process.setdefault(key, []).append(sample)
    return frozenset(
        members[0].sample_id
        for members in by_process.values()
        if _first_is_cold([_seconds(sample) for sample in members])
    )


def cold_rows(columns: Mapping[str, Sequence[Any]], rows: Iterable[int]) -> frozenset[int]:
    """Return the rows of a run, read by column, that are cold samples.

    Args:
        columns: the samples by column.
        rows: rows that count, from 0, in the order in which they were written.
    """
    cases, sessions = columns["case_id"], columns["session"]
    workers, totals = columns["worker"], columns["total_s"]
    by_process: dict[tuple[str, int, int], list[int]] = {}
    for row in rows:
        by_process.setdefault((cases[row], sessions[row], workers[row]), []).append(row)
    return frozenset(
        members[0]
        for members in by_process.values()
        if _first_is_cold([totals[row] for row in members])
    )


def _first_is_cold(times: Sequence[float]) -> bool:
    later = times[1:]
    return len(later) >= COLD_LATER and times[0] > COLD_FACTOR * max(later)


def _seconds(sample: Sample) -> float:
    return sample.total_s or 0.0
