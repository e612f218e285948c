"""Tests of kvbench/report/plot.py."""

from __future__ import annotations

import pytest

from kvbench.analysis.summary import summarize_cases
from kvbench.plan.case import Case
from kvbench.report import plot
from kvbench.report.plot import speedup_bars
from tests.report.saved import grid, run_of, time_of


def gain(**by_length: float) -> list[str]:
    """Return the bars of a run with these speedups, by length."""
    wanted = {int(name[1:]): value for name, value in by_length.items()}

    def time(case: Case) -> float:
        return wanted[case.max_new_tokens] if case.cache == "off" else 1.0

    return speedup_bars(run_of(grid(time, max_new_tokens=tuple(wanted))), 8)


def test_a_bar_is_as_long_as_its_speedup(snapshot: object) -> None:
    assert gain(n10=1.0, n50=2.0, n100=4.0) == snapshot


@pytest.mark.parametrize(
    ("speedup", "drawn"),
    [
        (1.0, "█ 1.00x"),
        (1.125, "█▏ 1.12x"),
        (1.5, "█▌ 1.50x"),
        (1.875, "█▉ 1.88x"),
        (0.5, "▌ 0.500x"),
    ],
)
def test_bars_are_drawn_in_eighths(speedup: float, drawn: str) -> None:
    assert gain(n1=speedup, n2=8.0)[1] == f"  1 {drawn}"


def test_a_bar_of_almost_nothing_is_no_bar() -> None:
    assert gain(n1=0.001, n2=8.0)[1] == "  1  0.00100x"


def test_there_is_a_block_for_each_line_with_one_scale(snapshot: object) -> None:
    def time(case: Case) -> float:
        off = {1: 2.0, 4: 8.0}[case.batch_size]
        return off if case.cache == "off" else 1.0

    assert speedup_bars(run_of(grid(time, batch_size=(1, 4), max_new_tokens=(10,))), 8) == snapshot


def test_devices_are_told_apart(snapshot: object) -> None:
    bars = speedup_bars(run_of(grid(time_of, device=("cpu", "cuda"))))
    assert [line for line in bars if line.endswith(":")] == snapshot


def test_without_a_pair_there_is_no_plot() -> None:
    assert speedup_bars(run_of(grid(cache=("dynamic",)))) == []
    assert speedup_bars(run_of(grid(cache=("off",)))) == []
    assert speedup_bars(run_of([])) == []


def test_a_summary_that_there_is_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(grid())
    expected, cases = speedup_bars(run), summarize_cases(run.samples)
    monkeypatch.setattr(plot, "summarize_cases", lambda samples: 1 / 0)
    assert speedup_bars(run, cases=cases) == expected
    assert expected


def test_prompts_stand_in_the_heads_as_they_are(snapshot: object) -> None:
    bars = speedup_bars(run_of(grid(prompt=("明天", "今天"))))
    assert sorted(line for line in bars if line.endswith(":")) == snapshot


def test_one_length_of_several_batch_sizes_is_a_block_each(snapshot: object) -> None:
    bars = speedup_bars(run_of(grid(batch_size=(1, 2), max_new_tokens=(10,))))
    assert bars[::3] == snapshot
