"""Tests of kvbench/report/expected.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvbench.analysis.expected import summarize_run
from kvbench.records.rates import Product
from kvbench.records.run import load_run
from kvbench.report.expected import expectation_sentences
from tests.analysis.test_expected import probed, rates
from tests.report.saved import grid, run_of, time_of

GOLDEN = Path(__file__).parents[1] / "golden"


def told(**fields: object) -> list[str]:
    # Ten times as slow as usual: not below its lower bound.
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
    assert not any("below its lower bound" in sentence for sentence in told())


def test_prompts_are_told_apart() -> None:
    sentences = told(samples=grid(prompt=("one", "two")))
    assert len({s for s in sentences if s.startswith("gpt2")}) == 2


def on_a_gpu(layer_s: float | None = 1e-3, **fields: object) -> list[str]:
    """Return 20 ms per step with and without the cache, 12 of them for launches."""
    gpu = rates(
        device="cuda",
        read_bytes_per_s=1e12,
        flops_per_s={"float32": 50e12},
        layer_s=layer_s,
        **fields,
    )
    samples = grid(lambda case: 0.02 * case.max_new_tokens, device=("cuda",))
    return told(samples=samples, rates=(gpu,))


def test_launches_are_named_as_what_a_step_waits_for() -> None:
    known = tuple(
        Product(dtype="float32", rows=rows, width=1024, seconds=rows * 1e-7) for rows in (1, 1024)
    )
    first, second, *more = on_a_gpu(products=known)
    assert "Expected speedup 1.00x, measured 1.00x (1.00 to 1.00 in 7 rounds)" in first
    assert "At least" not in first
    why = "launch-bound, launches alone take 12.0 ms"
    assert second.count(why) == 2
    assert second.startswith("Without a cache a step takes 20.0 ms, ")
    assert not any("probed without the products" in sentence for sentence in more)


def test_launches_that_were_not_probed_have_no_time() -> None:
    _, second, *_ = on_a_gpu(layer_s=None)
    assert second.count("probably launch-bound, launches were not probed") == 2
    assert "launches alone take" not in second


def test_rates_that_lack_small_products_allow_the_least_speedup_only() -> None:
    first, second, third, *_ = on_a_gpu()
    assert "Expected speedup at least 1.00x" in first
    assert "launch-bound (as far as these rates show), launches alone take 12.0 ms" in second
    assert third.startswith("These rates come from an older probe without products")


def test_strategies_without_a_lower_bound_of_their_own_are_named_too() -> None:
    samples = grid(lambda case: 10 * time_of(case), cache=("off", "dynamic", "static"))
    *_, last = told(samples=samples)
    assert last.startswith(
        "Other strategies per step, against the lower bound of dynamic: static 100 ms ("
    )


@pytest.mark.parametrize("name", ["h100-gpt2-cuda", "h100-gpt2-both", "h100-llama-7b"])
def test_what_the_rates_recorded_on_an_h100_allow(name: str) -> None:
    """They lack products of a decoder's sizes: only the smallest speedup follows from them.

    The measured range is widened by 15 %.
    """
    run = load_run(GOLDEN / name)
    found = [case for case in summarize_run(run) if case.expected_speedup is not None]
    assert found
    for case in found:
        assert case.expected_from == "layers" and case.expected_speedup is not None
        assert case.speedup_round_max is not None
        assert 0.99 < case.expected_speedup <= case.speedup_round_max * 1.15
