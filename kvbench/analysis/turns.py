"""Conversations: from which turn on keeping the cache pays off, and what it costs in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kvbench.analysis.claims import Claim, claim_of, does_other_work
from kvbench.analysis.cold import cold_starts
from kvbench.analysis.recommend import kept_bytes
from kvbench.analysis.statistics import paired_ratio
from kvbench.analysis.summary import CaseSummary
from kvbench.plan.axes import AXES, values_of
from kvbench.records.sample import Round, Sample, latest, round_of

__all__ = ["Conversation", "conversations", "reuse_claim", "with_reuse"]

_KEPT, _AGAIN = "conversation", "turn"
"""The reuse whose gain is reported, and the one that it is compared with."""

_TURN = tuple(name for name in AXES if name != "reuse")
_WHOLE = tuple(name for name in AXES if name not in ("reuse", "turn"))


@dataclass(frozen=True)
class Conversation:
    """The turns of a conversation whose cache is kept, and those of a stateless server.

    Attributes:
        kept: the cases with the reuse `conversation`, by turn.
        again: the cases with the reuse `turn`, by turn.
        pays_from: the first turn from which on each turn has its first token earlier by more than
            the noise; None if there is none.
        too_few: whether some turn after the first has too few rounds to estimate its noise.
    """

    kept: tuple[CaseSummary, ...]
    again: tuple[CaseSummary, ...]
    pays_from: int | None
    too_few: bool

    @property
    def last(self) -> tuple[CaseSummary, CaseSummary]:
        """The last turn: with the cache kept, and without."""
        return self.kept[-1], self.again[-1]

    @property
    def held_bytes(self) -> int | None:
        """What the kept cache occupies once the conversation is over; None if unknown."""
        return kept_bytes(self.kept[-1])


def with_reuse(cases: Sequence[CaseSummary], samples: Iterable[Sample]) -> tuple[CaseSummary, ...]:
    """Return the cases; those with a kept cache get their gain, estimated within rounds."""
    if not any(case.reuse == _KEPT for case in cases):
        return tuple(cases)
    first = _first_tokens(samples)
    again = {values_of(case, _TURN): case for case in cases if case.reuse == _AGAIN}

    def with_gain(case: CaseSummary) -> CaseSummary:
        other = again.get(values_of(case, _TURN)) if case.reuse == _KEPT else None
        if other is None:
            return case
        here, there = first.get(case.case_id, {}), first.get(other.case_id, {})
        shared = [place for place in there if place in here]
        if not shared:
            return dataclasses.replace(case, reuse_rounds=0)
        found = paired_ratio([there[place] for place in shared], [here[place] for place in shared])
        return dataclasses.replace(
            case,
            reuse_gain=found.ratio,
            reuse_gain_ci95_low=found.low,
            reuse_gain_ci95_high=found.high,
            reuse_rounds=len(shared),
        )

    return tuple(map(with_gain, cases))


def _first_tokens(samples: Iterable[Sample]) -> Mapping[str, Mapping[Round, float]]:
    """Return the times to the first token of the samples that count, by case and round."""
    rows = latest(samples)
    cold = cold_starts(rows)
    found: dict[str, dict[Round, float]] = {}
    for row in rows:
        counts = row.phase == "measure" and row.status == "ok" and row.sample_id not in cold
        if counts and row.ttft_s:
            found.setdefault(row.case_id, {})[round_of(row)] = row.ttft_s
    return found


def conversations(cases: Iterable[CaseSummary]) -> tuple[Conversation, ...]:
    """Return the conversations of a run with all turns timed with and without a kept cache."""
    found: dict[tuple[object, ...], dict[str, list[CaseSummary]]] = {}
    for case in cases:
        if case.reuse in (_KEPT, _AGAIN) and case.ttft_s_median is not None:
            kinds = found.setdefault(values_of(case, _WHOLE), {_KEPT: [], _AGAIN: []})
            kinds[case.reuse].append(case)
    pairs = ((_by_turn(kinds[_KEPT]), _by_turn(kinds[_AGAIN])) for kinds in found.values())
    return tuple(_conversation(kept, again) for kept, again in pairs if _match(kept, again))


def _match(kept: Sequence[CaseSummary], again: Sequence[CaseSummary]) -> bool:
    return len(kept) > 1 and [case.turn for case in kept] == [case.turn for case in again]


def _by_turn(cases: Iterable[CaseSummary]) -> tuple[CaseSummary, ...]:
    return tuple(sorted(cases, key=lambda case: case.turn))


def _conversation(kept: tuple[CaseSummary, ...], again: tuple[CaseSummary, ...]) -> Conversation:
    # The first turn has nothing to reuse.
    later = [case for case in kept if case.turn > 1]
    pays_from = None
    for case in reversed(later):
        if not _is_earlier(case):
            break
        pays_from = case.turn
    too_few = any(reuse_claim(case) == "too_few" for case in later)
    return Conversation(kept, again, pays_from, too_few)


def _is_earlier(case: CaseSummary) -> bool:
    """Return whether the first token is significantly earlier, by any amount."""
    low = case.reuse_gain_ci95_low
    return not does_other_work(case) and low is not None and low > 1


def reuse_claim(case: CaseSummary) -> Claim:
    """Return what can be claimed about how much earlier the first token of a turn is."""
    if does_other_work(case):
        return "other_work"
    return claim_of(case.reuse_gain_ci95_low, case.reuse_gain_ci95_high)
