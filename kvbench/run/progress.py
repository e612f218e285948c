"""How far the cases of a plan have come, also from the rows of an earlier start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from kvbench.case import Case, Phase, Task
from kvbench.measure.stopping import StoppingRule
from kvbench.records.sample import Sample, latest

__all__ = ["TRIED_AGAIN", "CaseProgress", "progress_of"]

TRIED_AGAIN = frozenset({"crashed"})
"""Failures that a resume tries again by itself: a lost process says little about the case. The
others are findings."""


@dataclass
class CaseProgress:
    """What was recorded of one case.

    Attributes:
        measured: its counted samples.
        failure: the failed sample that ended it.
        warm: whether the process that measures now has warmed it up.
        memory_known: whether an untimed pass for memory was made.
        ended: no further sample of it is taken.
    """

    case: Case
    measured: list[Sample] = field(default_factory=list)
    failure: Sample | None = None
    warm: bool = False
    memory_known: bool = False
    ended: bool = False
    _attempts: Counter[tuple[Phase, int]] = field(default_factory=Counter)

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

    def note(self, sample: Sample, rule: StoppingRule) -> None:
        """Learn from a row that was recorded."""
        self.remember(sample)
        if sample.status != "ok":
            self.failure, self.ended = sample, True
        elif sample.phase == "measure":
            self.measured.append(sample)
            self.ended = rule.done([one.total_s or 0.0 for one in self.measured])
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
        progress = found[case] = CaseProgress(case)
        for sample in rows.get(case.id, ()):
            if id(sample) in counts and sample.status not in again:
                progress.note(sample, rule)
            else:
                progress.remember(sample)
    return found
