"""Tests of kvbench/analysis/turns.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from kvbench.analysis.summary import CaseSummary, summarize_cases
from kvbench.analysis.turns import Conversation, conversations, reuse_claim, with_reuse
from kvbench.records.sample import Sample
from tests.fakes import make_case, make_task, timed_sample

TURNS = range(1, 5)
CHAT = {"workload": "chat:turns=4"}


def measured(
    gain: Callable[[int], float], rounds: int = 7, noise: float = 0.01, **fields: object
) -> list[Sample]:
    """Return the rows of conversations in which a kept cache gains this much, by turn."""
    found = []
    for turn in TURNS:
        for reuse, first in (("turn", 0.1 * turn), ("conversation", 0.1 * turn / gain(turn))):
            case = make_case(turn=turn, reuse=reuse, **CHAT, **fields)
            held = {"cache_allocated_bytes": 1000 * turn, "kv_cache_bytes": 900 * turn}
            for number in range(rounds):
                # The machine drifts, and both kinds of reuse with it.
                drift = (1 + number) * (1 + noise * (number % 3) * (reuse == "turn"))
                task = make_task(case, number)
                found.append(timed_sample(task, 2.0 * drift, ttft_s=first * drift, **held))
    return found


def summaries(samples: Sequence[Sample]) -> tuple[CaseSummary, ...]:
    return with_reuse(summarize_cases(samples), samples)


def only(samples: Sequence[Sample]) -> Conversation:
    (found,) = conversations(summaries(samples))
    return found


def test_the_gain_is_estimated_within_rounds() -> None:
    cases = summaries(measured(lambda turn: float(turn)))
    kept = {case.turn: case for case in cases if case.reuse == "conversation"}
    for turn, case in kept.items():
        assert case.reuse_gain == pytest.approx(turn * 1.01, rel=0.01)
        assert case.reuse_gain_ci95_low is not None and case.reuse_gain_ci95_high is not None
        # The drift is sevenfold; within a round there is a percent or two.
        assert case.reuse_gain_ci95_high / case.reuse_gain_ci95_low < 1.03
        assert case.reuse_rounds == 7
    assert all(case.reuse_gain is None for case in cases if case.reuse == "turn")


@pytest.mark.parametrize(
    ("gain", "pays_from"),
    [
        ({1: 1.0, 2: 0.9, 3: 2.0, 4: 4.0}, 3),
        # A later turn that is not faster is not passed over.
        ({1: 1.0, 2: 2.0, 3: 0.9, 4: 4.0}, 4),
        ({1: 1.0, 2: 2.0, 3: 3.0, 4: 0.9}, None),
        # The first turn has nothing to reuse.
        ({1: 3.0, 2: 2.0, 3: 3.0, 4: 4.0}, 2),
    ],
)
def test_keeping_pays_from_the_turn_on_from_which_all_are_faster(
    gain: dict[int, float], pays_from: int | None
) -> None:
    found = only(measured(lambda turn: gain[turn]))
    assert (found.pays_from, found.too_few) == (pays_from, False)
    assert found.held_bytes == 4000
    assert [case.turn for case in found.last] == [4, 4]


def test_rounds_that_disagree_about_how_much_may_agree_that_it_pays() -> None:
    found = only(measured(lambda turn: 2.0, noise=0.5))
    assert found.pays_from == 2
    assert reuse_claim(found.last[0]) == "disagree"


def test_too_few_rounds_carry_no_claim() -> None:
    found = only(measured(lambda turn: 5.0, rounds=5))
    assert (found.pays_from, found.too_few) == (None, True)


def test_a_conversation_without_its_counterpart_is_not_compared() -> None:
    samples = measured(lambda turn: 2.0)
    assert conversations(summaries([s for s in samples if s.reuse == "turn"])) == ()
    cut = [s for s in samples if (s.reuse, s.turn) != ("conversation", 4)]
    assert conversations(summaries(cut)) == ()


def test_single_prompts_are_no_conversations() -> None:
    samples = [timed_sample(make_task(make_case(), number), 1.0) for number in range(6)]
    assert summaries(samples) == summarize_cases(samples)
    assert conversations(summarize_cases(samples)) == ()
