"""Rounds of a comparison group: which are complete, which count, and which comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kvbench.analysis.cold import cold_starts
from kvbench.records.sample import Sample

__all__ = ["MOST_COLD_ROUNDS", "Round", "complete_rounds", "counted_rounds", "next_round"]

Round = tuple[int, int, int]
"""Session, worker process and number: samples of one round saw the same process."""

MOST_COLD_ROUNDS = 2
"""So many cold rounds of a comparison group are measured again in one session; later ones count,
so that a machine on which every process starts cold does not measure forever."""


def round_of(sample: Sample) -> Round:
    """Return the round in which a sample was taken."""
    return (sample.session, sample.worker, sample.round)


def complete_rounds(members: Sequence[Sequence[Sample]]) -> tuple[Round, ...]:
    """Return the rounds in which every member has a sample, in the order they were taken.

    Args:
        members: for each member of a comparison group, its samples with phase `measure` and status
            `ok`.
    """
    if not members:
        return ()
    first, *others = ([round_of(sample) for sample in samples] for samples in members)
    shared = set(first).intersection(*others)
    return tuple(one for one in dict.fromkeys(first) if one in shared)


def counted_rounds(members: Sequence[Sequence[Sample]]) -> tuple[Round, ...]:
    """Return the complete rounds that count: those without a cold sample.

    Of the cold rounds of a session all but the first two count nevertheless. The answer depends on
    the rows alone, so that a resumed sweep agrees with the one before.
    """
    cold = {round_of(sample) for samples in members for sample in cold_samples(samples)}
    passed_over: Counter[int] = Counter()
    counted = []
    for one in complete_rounds(members):
        session = one[0]
        if one in cold and passed_over[session] < MOST_COLD_ROUNDS:
            passed_over[session] += 1
        else:
            counted.append(one)
    return tuple(counted)


def cold_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of one case that were slow only because their process was new."""
    ids = cold_starts(samples)
    return [sample for sample in samples if sample.sample_id in ids]


def next_round(members: Iterable[Sequence[Sample]]) -> int:
    """Return the number of the next round of a comparison group.

    A round that has a sample is over, complete or not: a broken one is measured again under a new
    number, by all members.
    """
    return max((sample.round + 1 for samples in members for sample in samples), default=0)
