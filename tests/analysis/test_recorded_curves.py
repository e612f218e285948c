"""`sampled` on recorded curves: a tenth of what docs/methods.md reports, with wider bounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kvbench.analysis.sampled import Curve, Measured, Times
from scripts import judge_sampled
from scripts.judge_sampled import ROOT, Recorded, judge, recorded

GOLDEN = sorted((ROOT / "tests" / "golden").glob("h100-gpt2-*"))
CURVES = list(recorded(GOLDEN))


@pytest.mark.parametrize("case", CURVES, ids=lambda case: f"{case.name}, {case.cache}")
def test_totals_of_recorded_generations_are_within_five_per_cent(case: Recorded) -> None:
    found = judge(case, 20, np.random.default_rng(7), mixed=False)
    assert found.within >= 0.85
    assert found.coverage >= 0.85
    assert abs(float(found.errors.mean())) < 0.02


def test_the_golden_runs_have_curves_to_judge() -> None:
    assert len(CURVES) == 6
    assert {case.tokens for case in CURVES} == {200, 1000}


def test_a_run_that_is_kept_in_two_places_counts_once(tmp_path: Path) -> None:
    assert len(list(recorded([*GOLDEN, *GOLDEN]))) == len(CURVES)


def test_judging_sees_an_estimate_that_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the quickest step of each position had counted.
    class Quickest(Curve):
        def __init__(self, measured: Measured) -> None:
            blocks = (
                dataclasses.replace(block, seconds=(min(block.seconds),) * len(block.seconds))
                for block in measured.blocks
            )
            super().__init__(dataclasses.replace(measured, blocks=tuple(blocks)))

    monkeypatch.setattr(judge_sampled, "Curve", Quickest)
    (case,) = (one for one in CURVES if one.tokens == 1000 and one.cache == "off")
    found = judge(case, 20, np.random.default_rng(7), mixed=False)
    assert found.is_wrong
    assert found.errors.mean() < -0.05


def test_judging_sees_intervals_that_are_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sure(Curve):
        def times(self, tokens: int) -> Times:
            found = super().times(tokens)
            return dataclasses.replace(found, low_s=found.total_s, high_s=found.total_s)

    monkeypatch.setattr(judge_sampled, "Curve", Sure)
    found = judge(CURVES[0], 5, np.random.default_rng(7), mixed=False)
    assert found.coverage < 0.1 and found.is_wrong
