"""Tests of kvbench/report/expected.py."""

from __future__ import annotations

from kvbench.analysis.expected import summarize_run
from kvbench.report.expected import expectation_sentences
from kvbench.theory.floors import floor
from tests.analysis.test_expected import GPT2, probed, rates
from tests.report.saved import grid, run_of, time_of


def told(**fields: object) -> list[str]:
    # Ten times as slow as usual: not below its floor.
    known = {"samples": grid(lambda case: 10 * time_of(case))} | fields
    run = probed(**known)  # type: ignore[arg-type]
    return expectation_sentences(summarize_run(run), run.info)


def test_what_is_expected_stands_beside_what_was_measured() -> None:
    first, second = told()
    off, on = (floor(GPT2, n, 1, 6, 100, "float32", rates()).seconds for n in ("off", "dynamic"))
    assert first == (
        "gpt2 on cpu, float32, cache dynamic, 100 new tokens: at 10.0 GB/s and 0.100 TFLOP/s, as "
        f"probed, it takes at least {on:.2f} s, and {off:.1f} s without a cache. "
        f"{off / on:.2f} times as fast is to be expected, 2.00 was measured."
    )
    assert second.startswith("Without a cache the limit is arithmetic: ")
    assert " of the bandwidth (MBU), " in second
    assert " With it the limit is memory bandwidth: " in second


def test_without_rates_nothing_is_told() -> None:
    run = run_of(grid())
    assert expectation_sentences(summarize_run(run), run.info) == []


def test_overhead_is_told_with_the_length_from_which_it_pays() -> None:
    fast = rates(read_bytes_per_s=1e12, flops_per_s={"float32": 50e12})
    *_, last = told(samples=grid(lambda case: 0.02 * case.max_new_tokens), rates=(fast,))
    assert last.startswith("Overhead-bound: a step takes 20.0 ms whatever it computes; no speed-up")
    assert "is expected below " in last
    endless = rates(read_bytes_per_s=1e15, flops_per_s={"float32": 1e18})
    *_, last = told(samples=grid(lambda case: 0.5 * case.max_new_tokens), rates=(endless,))
    assert last.endswith("no speed-up is expected within 65536 tokens.")


def test_rates_of_a_busy_machine_are_told() -> None:
    first, *_ = told(rates=(rates(flags=("busy_cpu",)),))
    assert ", as probed, in doubt (busy_cpu), it takes at least" in first


def test_a_run_below_its_floor_says_that_the_rates_are_too_low() -> None:
    slow = rates(read_bytes_per_s=1e8)
    *_, last = told(rates=(slow,))
    assert last.startswith("A run below its floor: the rates are too low")
    assert not any("below its floor" in sentence for sentence in told())


def test_prompts_are_told_apart() -> None:
    sentences = told(samples=grid(prompt=("one", "two")))
    assert len({s for s in sentences if s.startswith("gpt2")}) == 2
