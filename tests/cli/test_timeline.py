"""Tests of kvbench/cli/timeline.py: sums of phases, with a clock of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.cli.timeline import PHASES, Timeline
from kvbench.records.events import (
    Event,
    ModelLoaded,
    ModelLoading,
    SampleEnded,
    SampleStarted,
    SweepEnded,
    SweepStarted,
    Verified,
    Verifying,
)
from tests.fakes import make_case, make_finding, make_task, timed_sample


class Clock:
    """A clock that a test sets."""

    now = 110.0

    def __call__(self) -> float:
        return self.now


def test_each_phase_has_its_seconds() -> None:
    clock = Clock()
    timeline = Timeline(100.0, 103.0, clock)
    case = make_case()
    task, key = make_task(case, 0), case.model_key
    warmup = make_task(case, 0, phase="warmup")
    told: list[tuple[float, Event]] = [
        (5.0, SweepStarted(Path("run"), (case,), 1)),
        (0.5, ModelLoading(key)),
        (4.0, ModelLoaded(key, 4.0, 1, 1)),
        (0.5, Verifying(key, "dynamic")),
        (6.0, Verified(make_finding())),
        (0.0, SampleStarted(warmup)),
        (2.0, SampleEnded(timed_sample(warmup, 2.0))),
        (0.25, SampleStarted(task)),
        (8.0, SampleEnded(timed_sample(task, 8.0))),
        (1.5, SweepEnded(Path("run"), "finished", 0)),
    ]
    for seconds, event in told:
        clock.now += seconds
        timeline(event)
    clock.now += 0.5
    found = timeline.seconds()
    assert found == {
        "interpreter": 3.0,
        "imports": 7.0,
        "worker": 5.0,
        "model": 4.0,
        "verification": 6.0,
        "warm-up": 2.0,
        "samples": 8.0,
        "report": 2.0,
        "other": 1.25,
    }
    assert sum(found.values()) == pytest.approx(clock.now - 100.0)
    assert timeline.text() == (
        "Seconds: interpreter 3.00, imports 7.00, worker 5.00, model 4.00, verification 6.00, "
        "warm-up 2.00, samples 8.00, report 2.00, other 1.25; 38.25 in total."
    )


def test_the_start_of_the_process_is_the_systems() -> None:
    found = Timeline().seconds()
    assert set(found) == set(PHASES)
    assert found["imports"] > 0.0
    assert found["interpreter"] >= 0.0
