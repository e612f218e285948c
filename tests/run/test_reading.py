"""Tests of kvbench/run/reading.py: quality in a sweep, with an engine that measures nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench import api
from kvbench.plan.case import Case
from kvbench.plan.plan import Plan
from kvbench.records.events import Notice
from kvbench.records.quality import load_qualities
from tests.fakes import FakeEngine, make_case
from tests.run.test_sweep import failing, start

FP8 = "quantized:backend=fp8"
WINDOW = "window:size=64"


def cases(*models: str, weights: str = "pretrained") -> list[Case]:
    return [
        make_case(model=model, weights=weights, cache=cache, max_new_tokens=tokens)
        for model in models or ("a",)
        for tokens in (5, 10)
        for cache in ("off", "dynamic", FP8, WINDOW)
    ]


def test_each_lossy_strategy_is_read_once_after_its_model_is_timed(tmp_path: Path) -> None:
    swept = start(tmp_path / "run", cases("a", "b"), quality=True)
    assert swept.engine.read == [("a", FP8), ("a", WINDOW), ("b", FP8), ("b", WINDOW)]
    # While the model is open: nothing is loaded again for it.
    assert [key.model for key in swept.engine.opened] == ["a", "b"]
    rows = load_qualities(swept.path)
    assert [(row.model, row.cache, row.session) for row in rows] == [
        ("a", FP8, 0),
        ("a", WINDOW, 0),
        ("b", FP8, 0),
        ("b", WINDOW, 0),
    ]
    assert len(swept.measured) == 2 * 2 * 4 * 3


@pytest.mark.parametrize(("weights", "quality"), [("random", True), ("pretrained", False)])
def test_random_weights_are_not_read_nor_what_is_not_asked_for(
    tmp_path: Path, weights: str, quality: bool
) -> None:
    swept = start(tmp_path / "run", cases(weights=weights), quality=quality)
    assert swept.engine.read == []
    assert not (swept.path / "quality.csv").exists()


def test_a_lost_process_costs_no_sample_and_is_reported(tmp_path: Path) -> None:
    engine = FakeEngine(lost_reading=(FP8,))
    swept = start(tmp_path / "run", cases(), engine, quality=True)
    assert [sample.status for sample in swept.rows] == ["ok"] * len(swept.rows)
    assert len(swept.measured) == 2 * 4 * 3
    assert engine.read == [("a", FP8), ("a", WINDOW)]
    lost, other = load_qualities(swept.path)
    assert (lost.reason, other.reason) == ("the worker process was killed", None)
    said = [event.text for event in swept.events if isinstance(event, Notice)]
    assert any(FP8 in text and "killed" in text for text in said)


def test_a_model_that_does_not_load_again_costs_no_sample(tmp_path: Path) -> None:
    class Once(FakeEngine):
        def lose(self) -> None:
            super().lose()
            self.unloadable = {"a": ("oom", "Does not fit.")}

    swept = start(tmp_path / "run", cases(), Once(lost_reading=(FP8,)), quality=True)
    assert {sample.status for sample in swept.rows} == {"ok"}
    assert [row.reason for row in load_qualities(swept.path)][1] == "Does not fit."


def test_a_strategy_that_never_ran_is_not_read(tmp_path: Path) -> None:
    failure = failing(lambda task: task.case.cache == FP8, ("mismatch", "decode", "No."))
    swept = start(tmp_path / "run", cases(), FakeEngine(failure=failure), quality=True)
    assert swept.engine.read == [("a", WINDOW)]


def test_a_stopped_sweep_reads_what_is_left_when_it_goes_on(tmp_path: Path) -> None:
    engine = FakeEngine()
    start(tmp_path / "run", cases(), engine, quality=True, stop=lambda: bool(engine.read))
    swept = start(tmp_path / "run", cases(), quality=True)
    assert swept.engine.read == [("a", WINDOW)]
    assert swept.engine.tasks == []
    assert [row.session for row in load_qualities(swept.path)] == [0, 1]


def test_a_finished_run_gets_quality_when_it_is_resumed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbench.report.build.draw_charts", lambda *arguments: iter(()))
    plan = Plan(
        model=["smollm2-135m"],
        weights="pretrained",
        cache=["off", FP8],
        max_new_tokens=[5],
        repeats=1,
        device=["cpu"],
        quality=False,
    )
    run = api.sweep(plan, out=tmp_path, name="run", engine=FakeEngine())
    assert run.qualities == ()
    engine = FakeEngine()
    again = api.resume(run.path, {"quality": True}, engine=engine)
    assert [row.cache for row in again.qualities] == [FP8]
    assert (again.info.state, engine.tasks) == ("finished", [])
    idle = FakeEngine()
    api.resume(run.path, engine=idle)
    assert idle.opened == []
