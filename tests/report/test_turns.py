"""Tests of kvbench/report/turns.py."""

from __future__ import annotations

import pytest

from kvbench.report.turns import turn_sentences
from tests.analysis.test_turns import measured, summaries


@pytest.mark.parametrize(
    ("gain", "rounds"),
    [(4.0, 7), (0.9, 7), (4.0, 3)],
    ids=["pays", "never", "too-few"],
)
def test_from_which_turn_on_keeping_pays(gain: float, rounds: int, snapshot: object) -> None:
    cases = summaries(measured(lambda turn: gain if turn > 2 else 1.0, rounds))
    assert turn_sentences(cases) == snapshot


def test_strategies_are_named_where_there_are_several(snapshot: object) -> None:
    samples = measured(lambda turn: 2.0) + measured(lambda turn: 3.0, cache="static")
    assert turn_sentences(summaries(samples)) == snapshot
