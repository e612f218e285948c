"""Tests of kvbench/report/expected.py."""

from __future__ import annotations

from kvbench.analysis.expected import summarize_run
from kvbench.report.expected import expectation_sentences
from tests.analysis.test_expected import probed, rates
from tests.report.saved import grid, run_of, time_of


def told(**fields: object) -> list[str]:
    # Ten times as slow as usual: not below its floor.
    known = {"samples": grid(lambda case: 10 * time_of(case))} | fields
    run = probed(**known)  # type: ignore[arg-type]
    return expectation_sentences(summarize_run(run), run.info)


def test_what_is_expected_stands_beside_what_was_measured(snapshot: object) -> None:
    first, second = told()
    assert first == snapshot
    assert second == snapshot


def test_without_rates_nothing_is_told() -> None:
    run = run_of(grid())
    assert expectation_sentences(summarize_run(run), run.info) == []


def test_overhead_is_told_with_the_length_from_which_it_pays(snapshot: object) -> None:
    fast = rates(read_bytes_per_s=1e12, flops_per_s={"float32": 50e12})
    *_, last = told(samples=grid(lambda case: 0.02 * case.max_new_tokens), rates=(fast,))
    assert last == snapshot
    endless = rates(read_bytes_per_s=1e15, flops_per_s={"float32": 1e18})
    *_, last = told(samples=grid(lambda case: 0.5 * case.max_new_tokens), rates=(endless,))


def test_rates_of_a_busy_machine_are_told(snapshot: object) -> None:
    first, *_ = told(rates=(rates(flags=("busy_cpu",)),))
    assert first == snapshot


def test_a_run_below_its_floor_says_that_the_rates_are_too_low(snapshot: object) -> None:
    slow = rates(read_bytes_per_s=1e8)
    *_, last = told(rates=(slow,))
    assert last == snapshot
    assert not any("below its floor" in sentence for sentence in told())


def test_prompts_are_told_apart() -> None:
    sentences = told(samples=grid(prompt=("one", "two")))
    assert len({s for s in sentences if s.startswith("gpt2")}) == 2
