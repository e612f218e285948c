"""How far the cases of a plan have come, also from the rows of an earlier start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from kvbench.case import Case, Phase, Task
from kvbench.measure.stopping import StoppingRule
from kvbench.records.sample import Sample, latest
from kvbench.run.order import pair_up

__all__ = ["TRIED_AGAIN", "CaseProgress", "progress_of"]

TRIED_AGAIN = frozenset({"crashed"})
"""Failures that a resume tries again by itself: a lost process says little about the case. The
others are findings."""


@dataclass(eq=False)
class CaseProgress:
    """What was recorded of one case, and whether there is more to measure.

    Attributes:
        rule: when there are enough samples.
        measured: its counted samples.
        failure: the failed sample that ended it.
        warm: whether the process that measures now has warmed it up.
        memory_known: whether an untimed pass for memory was made.
        pair: all arms of its pair, this one too: they go on and end together.
        end_told: whether its end was reported, or lay before this start of the sweep.
    """

    case: Case
    rule: StoppingRule
    measured: list[Sample] = field(default_factory=list)
    failure: Sample | None = None
    warm: bool = False
    memory_known: bool = False
    pair: Sequence[CaseProgress] = ()
    end_told: bool = False
    _attempts: Counter[tuple[Phase, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pair = self.pair or (self,)

    @property
    def ended(self) -> bool:
        """Whether no further sample is taken: it failed, may not go on, or its pair is done."""
        if self.failure is not None or self.rule.spent(self._times):
            return True
        return self.rule.done(*(one._times for one in self.pair if one.failure is None))

    @property
    def _times(self) -> list[float]:
        return [sample.total_s or 0.0 for sample in self.measured]

    @property
    def used_s(self) -> float:
        """Seconds that its counted samples took.

        Not the warm-ups: each process has its own, and an interrupted sweep more of them.
        """
        return math.fsum(sample.total_s or 0.0 for sample in self.measured)

    def task(self, phase: Phase, repeat: int, new_tokens: int) -> Task:
        """A task of this case; its attempt is how often it was recorded before."""
        attempt = self._attempts[phase, repeat]
        return Task(self.case, phase, repeat, repeat, new_tokens, attempt)

    def note(self, sample: Sample) -> None:
        """Learn from a row that was recorded."""
        self.remember(sample)
        if sample.status != "ok":
            self.failure = sample
        elif sample.phase == "measure":
            self.measured.append(sample)
        else:
            self.memory_known = self.memory_known or sample.phase == "memory"

    def remember(self, sample: Sample) -> None:
        """Learn of a row that does not count: that its id is taken."""
        self._attempts[sample.phase, sample.repeat] += 1


def progress_of(
    cases: Iterable[Case],
    samples: Sequence[Sample],
    rule: StoppingRule,
    again: Container[str] = TRIED_AGAIN,
) -> dict[Case, CaseProgress]:
    """The progress of each case, from the rows of earlier starts.

    `again` are the statuses of failed samples that are to be measured again.
    """
    counts = {id(sample) for sample in latest(samples)}
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        rows.setdefault(sample.case_id, []).append(sample)
    found = {}
    for case in cases:
        progress = found[case] = CaseProgress(case, rule)
        for sample in rows.get(case.id, ()):
            if id(sample) in counts and sample.status not in again:
                progress.note(sample)
            else:
                progress.remember(sample)
    for pair in pair_up(found):
        arms = [found[case] for case in pair]
        for arm in arms:
            arm.pair = arms
    for progress in found.values():
        progress.end_told = progress.ended
    return found
