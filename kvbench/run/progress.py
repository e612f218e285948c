"""Track how far the cases of a plan have come, including rows from earlier starts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from kvbench.measure.stopping import StoppingRule
from kvbench.methods import groups_of
from kvbench.plan.case import Case, Phase, Task
from kvbench.records.sample import Sample, cost_s, latest, round_of
from kvbench.run.rounds import SharedRounds, counted_rounds

__all__ = ["MOST_LOSSES", "TRIED_AGAIN", "CaseProgress", "progress_of"]

TRIED_AGAIN = frozenset({"crashed"})
"""Failures that a resume retries by itself: a lost process says little about the case. The others
are results.
"""

MOST_LOSSES = 3
"""A case ends once this many worker processes were lost over it since its last complete round."""


@dataclass(eq=False)
class CaseProgress:
    """What was recorded for one case, and whether more is to be measured.

    Attributes:
        rule: decides when there are enough samples.
        measured: its samples with phase `measure` and status `ok`; those of complete rounds count.
        failure: the failed sample that ended it.
        losses: worker processes that were lost over it since its last complete round.
        outputs: hashes of the tokens of its samples.
        memory_known: whether an untimed pass for memory was made.
        pair: all members of its comparison group, including this one: they share rounds, and end
            together. With the method `trace`, the members of all lengths.
        end_told: whether its end was reported, or came before this start of the sweep.
    """

    case: Case
    rule: StoppingRule
    measured: list[Sample] = field(default_factory=list)
    failure: Sample | None = None
    losses: int = 0
    outputs: set[str] = field(default_factory=set)
    memory_known: bool = False
    pair: Sequence[CaseProgress] = ()
    end_told: bool = False
    _attempts: Counter[tuple[Phase, int]] = field(default_factory=Counter)
    _owed: set[Phase] = field(default_factory=set)
    # The number after that of its last round.
    _following: int = 0
    _kept: tuple[list[CaseProgress], SharedRounds] | None = None
    _done: tuple[SharedRounds, int, bool] | None = None

    def __post_init__(self) -> None:
        self.pair = self.pair or (self,)

    @property
    def ended(self) -> bool:
        """Whether no further sample is taken: it failed, or its group has enough rounds."""
        if self.failure is not None:
            return True
        if any(one._owed for one in self._going_on):
            # Its row would wrongly say that the case failed.
            return False
        return self._have_enough()

    @property
    def counted(self) -> tuple[Sample, ...]:
        """Its samples that count, in rounds shared with the members that did not fail."""
        arms = [one.measured for one in self.pair if one.failure is None or one is self]
        counted = set(counted_rounds(arms))
        return tuple(sample for sample in self.measured if round_of(sample) in counted)

    @property
    def owes_warmup(self) -> bool:
        """Whether its warm-up was lost; another case's warm-up does not replace it."""
        return "warmup" in self._owed

    @property
    def next_round(self) -> int:
        """The number of the next round of its group."""
        return max(one._following for one in self.pair)

    @property
    def used_s(self) -> float:
        """How long taking its samples in complete rounds took, in seconds.

        Warm-ups and interrupted rounds do not count: each process has its own, and an interrupted
        sweep has more of them.
        """
        rounds = self._rounds
        if self.failure is None:
            return rounds.used_s[self._going_on.index(self)]
        complete = set(rounds.complete)
        return math.fsum(cost_s(s) for s in self.measured if round_of(s) in complete)

    def task(self, phase: Phase, repeat: int, new_tokens: int, number: int | None = None) -> Task:
        """Return a task of this case; its attempt is how often it was recorded before.

        `number` is the round's number, by default the one after the case's last.
        """
        if number is None:
            number = self._following if phase == "measure" else repeat
        return Task(self.case, phase, number, repeat, new_tokens, self._attempts[phase, repeat])

    def note(self, sample: Sample) -> None:
        """Update from a recorded row."""
        self.remember(sample)
        self._owed.discard(sample.phase)
        if sample.status != "ok":
            self.failure = sample
        elif sample.phase == "measure":
            self._owed.clear()
            self.measured.append(sample)
            self._following = max(self._following, sample.round + 1)
            if sample.output_sha256:
                self.outputs.add(sample.output_sha256)
        else:
            self.memory_known = self.memory_known or sample.phase == "memory"

    def note_loss(self, sample: Sample) -> None:
        """Update from the row of a lost process: it is retried, unless that happened too often.

        The count restarts with each complete round, so losses far apart, which say little about the
        case, do not end it.
        """
        self.losses += 1
        if self.losses < MOST_LOSSES:
            self.remember_lost(sample)
        else:
            self.note(sample)

    def remember(self, sample: Sample) -> None:
        """Record that the id of a row is taken, although the row does not count."""
        self._attempts[sample.phase, sample.repeat] += 1

    def remember_lost(self, sample: Sample) -> None:
        """Update from a row that another attempt must replace before the case can end."""
        self.remember(sample)
        self._owed.add(sample.phase)

    @property
    def _going_on(self) -> list[CaseProgress]:
        return [one for one in self.pair if one.failure is None]

    @property
    def _rounds(self) -> SharedRounds:
        """The rounds of the members that did not fail; recounted when one of them fails."""
        arms, first = self._going_on, self.pair[0]
        # Kept once for all members: with the method `trace` there may be hundreds.
        if first._kept is None or first._kept[0] != arms:
            first._kept = (arms, SharedRounds([one.measured for one in arms]))
        return first._kept[1]

    def _have_enough(self) -> bool:
        rounds, first = self._rounds, self.pair[0]
        times, known = rounds.times, first._done
        if known is None or known[:2] != (rounds, rounds.version):
            costs = rounds.costs
            done = self.rule.done(*times, costs=costs, generated=self._generated(costs))
            first._done = known = (rounds, rounds.version, done)
        return known[2]

    def _generated(self, costs: Sequence[Sequence[float]]) -> list[float]:
        """Return, for each member, the seconds of the generations that its times are read from."""
        arms = self._going_on
        kinds = [replace(arm.case, max_new_tokens=1) for arm in arms]
        longest: dict[Case, float] = {}
        for kind, seconds in zip(kinds, costs, strict=True):
            longest[kind] = max(longest.get(kind, 0.0), sum(seconds))
        return [longest[kind] for kind in kinds]


def progress_of(
    cases: Iterable[Case],
    samples: Sequence[Sample],
    rule: StoppingRule,
    again: Container[str] = TRIED_AGAIN,
) -> dict[Case, CaseProgress]:
    """Return the progress of each case, from the rows of earlier starts.

    `again` are the statuses of failed samples to measure again.
    """
    counts = {id(sample) for sample in latest(samples)}
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        rows.setdefault(sample.case_id, []).append(sample)
    found = {}
    for case in cases:
        progress = found[case] = CaseProgress(case, rule)
        for sample in rows.get(case.id, ()):
            if id(sample) not in counts:
                progress.remember(sample)
            elif sample.status in again:
                progress.remember_lost(sample)
            else:
                progress.note(sample)
    for pair in groups_of(found):
        arms = [found[case] for case in pair]
        for arm in arms:
            arm.pair = arms
    for progress in found.values():
        progress.end_told = progress.ended
    return found
