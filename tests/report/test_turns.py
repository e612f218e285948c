"""Tests of kvbench/report/turns.py."""

from __future__ import annotations

import pytest

from kvbench.report.figures import Material
from kvbench.report.figures.turns import turns
from kvbench.report.turns import turn_sentences
from tests.analysis.test_turns import measured, summaries
from tests.report.saved import run_of


@pytest.mark.parametrize(
    ("gain", "rounds", "noise"),
    [(4.0, 7, 0.01), (0.9, 7, 0.01), (4.0, 3, 0.01), (4.0, 7, 0.5)],
    ids=["pays", "never", "too-few", "disagree"],
)
def test_from_which_turn_on_keeping_pays(
    gain: float, rounds: int, noise: float, snapshot: object
) -> None:
    cases = summaries(measured(lambda turn: gain if turn > 2 else 0.5, rounds, noise))
    assert turn_sentences(cases) == snapshot


def test_strategies_are_named_where_there_are_several(snapshot: object) -> None:
    samples = measured(lambda turn: 2.0) + measured(lambda turn: 3.0, cache="static")
    assert turn_sentences(summaries(samples)) == snapshot


def test_the_first_token_of_each_turn_is_drawn_for_each_reuse() -> None:
    figure = turns(Material((run_of(measured(lambda turn: float(turn))),)))
    assert figure is not None
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert {str(label).rpartition(" ")[2] for label in drawn} == {"turn", "conversation"}
    for label, points in drawn.items():
        assert [x for x, _ in points] == [1, 2, 3, 4]
        first, last = points[0][1], points[-1][1]
        # The kept cache gains as much as the history grows.
        assert last / first == pytest.approx(1 if "conversation" in str(label) else 4, rel=0.05)
