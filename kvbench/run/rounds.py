"""Rounds of a comparison group: which are complete, which count, and which is next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from kvbench.analysis.cold import COLD_FACTOR, COLD_LATER, cold_starts
from kvbench.records.sample import Round, Sample, cost_s, round_of

__all__ = [
    "MOST_COLD_ROUNDS",
    "SharedRounds",
    "complete_rounds",
    "counted_rounds",
]

MOST_COLD_ROUNDS = 2
"""How many cold rounds of a comparison group are repeated in one session. Later ones count, or a
machine on which every process starts cold would measure forever.
"""


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

    All but the first two cold rounds of a session still count. The answer depends only on the rows,
    so a resumed sweep agrees with the original one.
    """
    cold = {round_of(sample) for samples in members for sample in cold_samples(samples)}
    return tuple(_without_cold(complete_rounds(members), cold))


def _without_cold(complete: Iterable[Round], cold: Container[Round]) -> list[Round]:
    passed_over: Counter[int] = Counter()
    counted = []
    for one in complete:
        session = one[0]
        if one in cold and passed_over[session] < MOST_COLD_ROUNDS:
            passed_over[session] += 1
        else:
            counted.append(one)
    return counted


def cold_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of one case that were slow only because their process was new."""
    ids = cold_starts(samples)
    return [sample for sample in samples if sample.sample_id in ids]


class SharedRounds:
    """The rounds of a comparison group, updated as its samples arrive.

    It gives the answers of `complete_rounds` and `counted_rounds`, but a new sample costs the same
    however many came before.

    Args:
        members: for each member of the group, the list to which its samples are appended: phase
            `measure`, status `ok`.
    """

    def __init__(self, members: Sequence[Sequence[Sample]]) -> None:
        self._members = members
        self._read = [0] * len(members)
        self._seconds: list[dict[Round, float]] = [{} for _ in members]
        self._spent: list[dict[Round, float]] = [{} for _ in members]
        self._processes: dict[tuple[int, int, int], _Process] = {}
        self._complete: list[Round] = []
        self._used_s = [0.0] * len(members)
        self._times: list[list[float]] = [[] for _ in members]
        self._costs: list[list[float]] = [[] for _ in members]
        self._version = 0

    @property
    def complete(self) -> Sequence[Round]:
        """The rounds in which every member has a sample."""
        self._catch_up()
        return self._complete

    @property
    def times(self) -> Sequence[Sequence[float]]:
        """For each member, the seconds of its samples in the rounds that count."""
        self._catch_up()
        return self._times

    @property
    def costs(self) -> Sequence[Sequence[float]]:
        """For each member, how long taking each of these samples took, in seconds."""
        self._catch_up()
        return self._costs

    @property
    def used_s(self) -> Sequence[float]:
        """For each member, how long taking its samples in complete rounds took, in seconds."""
        self._catch_up()
        return self._used_s

    @property
    def version(self) -> int:
        """A number that is another one whenever the answers are."""
        self._catch_up()
        return self._version

    def _catch_up(self) -> None:
        stale = False
        for index, samples in enumerate(self._members):
            for position in range(self._read[index], len(samples)):
                stale |= self._take(index, samples[position])
                self._version += 1
            self._read[index] = len(samples)
        if stale:
            cold = {process.first for process in self._processes.values() if process.is_cold}
            counted = _without_cold(self._complete, cold)
            self._times = [[seconds[one] for one in counted] for seconds in self._seconds]
            self._costs = [[seconds[one] for one in counted] for seconds in self._spent]

    def _take(self, index: int, sample: Sample) -> bool:
        """Add a sample, and return whether that changes which earlier rounds count."""
        one = round_of(sample)
        self._seconds[index][one] = sample.total_s or 0.0
        self._spent[index][one] = cost_s(sample)
        changed = sample.total_s is not None and self._judge(index, one, sample.total_s)
        if all(one in seconds for seconds in self._seconds):
            self._complete.append(one)
            for number, (seconds, spent) in enumerate(zip(self._seconds, self._spent, strict=True)):
                self._used_s[number] += spent[one]
                self._times[number].append(seconds[one])
                self._costs[number].append(spent[one])
            # A cold first sample of a round that is only now complete.
            changed |= any(p.first == one and p.is_cold for p in self._of_process(one))
        return changed

    def _judge(self, index: int, one: Round, seconds: float) -> bool:
        """Compare a sample with its process's first; return whether that turned cold or warm."""
        known = self._processes.get((index, *one[:2]))
        if known is None:
            self._processes[(index, *one[:2])] = _Process(one, seconds)
            return False
        was = known.is_cold
        known.later, known.slowest = known.later + 1, max(known.slowest, seconds)
        return was != known.is_cold

    def _of_process(self, one: Round) -> Iterable[_Process]:
        found = (self._processes.get((index, *one[:2])) for index in range(len(self._members)))
        return (process for process in found if process is not None)


@dataclass
class _Process:
    """The samples of one member in one process: the first, and a summary of the later ones."""

    first: Round
    seconds: float
    later: int = 0
    slowest: float = 0.0

    @property
    def is_cold(self) -> bool:
        return self.later >= COLD_LATER and self.seconds > COLD_FACTOR * self.slowest
