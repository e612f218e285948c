"""The state of a sweep: its cases and its engines. The scheduler reads it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kvbench.measure.stopping import StoppingRule
from kvbench.methods import groups_of
from kvbench.plan.case import Case, ModelKey, group_cases
from kvbench.records.check import Check
from kvbench.run.order import shuffled
from kvbench.run.progress import CaseProgress

__all__ = [
    "Conduct",
    "EngineState",
    "ModelSession",
    "ModelWork",
    "RoundGroup",
    "SweepState",
    "Turn",
]

_ORDERS_KEPT = 8


@dataclass(frozen=True)
class Conduct:
    """The execution settings of a sweep.

    Attributes:
        rule: decides how many samples of a case are enough.
        seed: the seed of the order of the cases.
        case_timeout_s: a case ends once its samples have taken this long.
        keep_going_after_oom: whether to measure cases that need more memory than one that ran out
            of it.
        warmup: the plan's key: auto, full or a number of tokens.
        verify: whether to check, once per model and strategy, that cached generation matches the
            baseline.
        quality: whether to measure what the lossy strategies do to the output of pretrained models.
    """

    rule: StoppingRule
    seed: int = 0
    warmup: str = "auto"
    case_timeout_s: float | None = None
    keep_going_after_oom: bool = False
    verify: bool = True
    quality: bool = False


@dataclass(eq=False)
class RoundGroup:
    """Cases that share their rounds: one engine measures them, and they end together.

    Attributes:
        members: in the order of the plan.
        home: the engine that measures the group; None until its first turn.
    """

    members: tuple[CaseProgress, ...]
    home: int | None = None

    @property
    def ended(self) -> bool:
        """Whether no member needs another sample."""
        return all(one.ended for one in self.members)

    @property
    def next_round(self) -> int:
        """The number of its next round."""
        return self.members[0].next_round

    def open_to(self, engine: int) -> bool:
        """Return whether an engine may take its next turn."""
        return self.home in (None, engine) and not self.ended


@dataclass(eq=False)
class ModelWork:
    """The cases of one model, as groups that share rounds."""

    model: ModelKey
    groups: tuple[RoundGroup, ...]
    seed: int
    _orders: dict[int, dict[RoundGroup, tuple[int, tuple[CaseProgress, ...]]]] = field(
        default_factory=dict
    )

    @property
    def members(self) -> Iterable[CaseProgress]:
        """All cases of the model."""
        return (one for group in self.groups for one in group.members)

    def place(self, group: RoundGroup, number: int) -> tuple[int, tuple[CaseProgress, ...]]:
        """Return the position of a group in a round, and its members in the order of that round.

        This is the same in a resumed sweep, whatever was measured before and whichever engine
        measures.
        """
        if number not in self._orders:
            while len(self._orders) >= _ORDERS_KEPT:
                del self._orders[min(self._orders)]
            self._orders[number] = self._order(number)
        return self._orders[number][group]

    def _order(self, number: int) -> dict[RoundGroup, tuple[int, tuple[CaseProgress, ...]]]:
        of_cases = {one.case: one for one in self.members}
        of_members = {one: group for group in self.groups for one in group.members}
        rng = random.Random(f"{self.seed}:{self.model.label}:{number}")
        mixed = shuffled([tuple(m.case for m in group.members) for group in self.groups], rng)
        found = {}
        for place, cases in enumerate(mixed):
            members = tuple(of_cases[case] for case in cases)
            found[of_members[members[0]]] = place, members
        return found


@dataclass
class SweepState:
    """What is known about the work; discarded at the end, since the rows contain it all.

    Attributes:
        models: in the order of the plan.
        verified: the models and strategies that need no further check in this sweep.
        cut: the checks during which the process was lost: how often, and their results.
        compared: ids of cases whose tokens were compared, in this sweep or before.
        unread: the models and strategies whose quality is still to be measured, each with a case.
        reading: those that an engine is measuring now.
    """

    conduct: Conduct
    models: dict[ModelKey, ModelWork]
    verified: set[tuple[ModelKey, str]] = field(default_factory=set)
    cut: dict[tuple[ModelKey, str], list[tuple[Check, ...]]] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)
    unread: dict[tuple[ModelKey, str], Case] = field(default_factory=dict)
    reading: set[tuple[ModelKey, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._groups = {
            one.case: group
            for work in self.models.values()
            for group in work.groups
            for one in group.members
        }

    def group_of(self, case: Case) -> RoundGroup:
        """Return the group in which a case shares its rounds."""
        return self._groups[case]

    def member(self, case: Case) -> CaseProgress:
        """Return the progress of a case."""
        return next(one for one in self._groups[case].members if one.case == case)

    @classmethod
    def of(cls, progress: Mapping[Case, CaseProgress], conduct: Conduct) -> SweepState:
        """Return the state of a sweep that starts, or resumes, with this progress."""
        models = {
            one.model: ModelWork(
                one.model,
                tuple(
                    RoundGroup(tuple(progress[case] for case in group))
                    for group in groups_of(one.cases)
                ),
                conduct.seed,
            )
            for one in group_cases(progress)
        }
        return cls(conduct, models)


@dataclass
class ModelSession:
    """A model open in one process. If the process is lost, the whole record is discarded.

    Attributes:
        room_bytes: what the device had free once the model was loaded.
        warm: the cases that the process has warmed up.
        ran: what ran with the model in the process, in order.
    """

    model: ModelKey
    needs_memory_pass: bool = False
    room_bytes: int | None = None
    warm: set[Case] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)

    def remember(self, what: str) -> None:
        """Record that something ran."""
        if what not in self.ran:
            self.ran.append(what)


@dataclass
class Turn:
    """One round of a group on one engine.

    Attributes:
        order: the members in the order of this round.
        taken: the cases with a sample of this round. They share one process: when it is lost, so is
            the turn.
    """

    model: ModelKey
    group: RoundGroup
    number: int
    order: Sequence[CaseProgress]
    taken: set[Case] = field(default_factory=set)

    @property
    def left(self) -> list[CaseProgress]:
        """The members still to be measured in this round."""
        return [one for one in self.order if one.case not in self.taken and not one.ended]


@dataclass
class EngineState:
    """What one engine is doing.

    Attributes:
        number: the number of the engine, from 0.
        busy: whether it is working on a step.
        model: the model last assigned to it.
        deaths: consecutive processes lost while loading.
        barred: models that it cannot load.
    """

    number: int
    busy: bool = False
    model: ModelKey | None = None
    session: ModelSession | None = None
    turn: Turn | None = None
    deaths: int = 0
    barred: set[ModelKey] = field(default_factory=set)

    def lose(self) -> None:
        """Forget the contents of a lost process, including a round that it started."""
        self.session = None
        if self.turn is not None and self.turn.taken:
            self.turn = None
