"""Tests of kvbench/analysis/expected.py."""

from __future__ import annotations

from typing import Any

import pytest

from kvbench.analysis.expected import expectations, summarize, summarize_run
from kvbench.analysis.summary import CaseSummary
from kvbench.catalogue import CATALOGUE
from kvbench.plan.case import Case
from kvbench.records.environment import Device
from kvbench.records.rates import Rates
from kvbench.records.run import Run
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.floors import floor, pays_from
from kvbench.theory.flops import generation_flops
from tests.fakes import make_environment, make_rates
from tests.report.saved import grid, run_of

GPT2 = Architecture.from_config(CATALOGUE["gpt2"].config)


def rates(**fields: Any) -> Rates:
    known = {"read_bytes_per_s": 10e9, "flops_per_s": {"float32": 100e9}}
    return make_rates(**(known | fields))


def probed(samples: Any = None, **info: Any) -> Run:
    found = info.pop("rates", (rates(),))
    environment = make_environment(rates=found)
    return run_of(grid() if samples is None else samples, environment=environment, **info)


def arms(run: Run, tokens: int = 100) -> tuple[CaseSummary, CaseSummary]:
    found = {c.cache: c for c in summarize_run(run) if c.max_new_tokens == tokens}
    return found["off"], found["dynamic"]


def test_a_case_has_the_floor_of_theory() -> None:
    for case in arms(probed()):
        known = floor(GPT2, case.cache, 1, 6, 100, "float32", rates())
        assert case.floor_s == known.seconds
        assert case.flops == generation_flops(GPT2, case.cache, 1, 6, 100)
        assert case.moved_bytes == known.moved.sum()
        assert case.expected_cache_bytes == cache_bytes(GPT2, case.cache, 1, 6, 100, "float32")
        assert case.total_s_median is not None
        assert case.mbu == known.mbu(case.total_s_median)
        assert case.mfu == known.mfu(case.total_s_median)
        assert case.rates == "probe"


def test_the_speedup_to_be_expected_is_the_ratio_of_the_floors() -> None:
    off, on = arms(probed())
    assert off.floor_s and on.floor_s
    assert on.expected_speedup == off.floor_s / on.floor_s
    assert off.expected_speedup is None


def test_without_the_uncached_arm_there_is_a_floor_and_no_speedup() -> None:
    (on,) = summarize_run(probed(grid(cache=("dynamic",), max_new_tokens=(100,))))
    assert on.floor_s is not None and on.expected_speedup is None


def test_what_was_measured_stays_as_it_is() -> None:
    bare = [c.total_s_median for c in summarize_run(run_of(grid()))]
    assert [c.total_s_median for c in summarize_run(probed())] == bare
    assert all(c.floor_s is None for c in summarize_run(run_of(grid())))


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (probed(rates=()), "nothing was probed, and no peaks of a CPU are published"),
        (probed(rates=(rates(device="cuda"),)), "another device was probed"),
        (probed(rates=(rates(flops_per_s={"float16": 1e9}),)), "another dtype was probed"),
        (probed(grid(model=("some/model",))), "its configuration was not recorded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_theory_cannot_tell_is_null(run: Run, why: str) -> None:
    found = {(c.floor_s, c.mbu, c.limited_by, c.flops) for c in summarize_run(run)}
    assert found == {(None,) * 4}, why


def test_the_configuration_that_was_recorded_is_what_counts() -> None:
    config = dict(CATALOGUE["gpt2"].config) | {"n_layer": 6}
    for name in ("some/model", "gpt2"):
        run = probed(grid(model=(name,)), configs={name: config})
        known = Architecture.from_config(config)
        assert arms(run)[1].expected_cache_bytes == cache_bytes(
            known, "dynamic", 1, 6, 100, "float32"
        )


def test_a_configuration_that_theory_cannot_read_has_no_floor() -> None:
    run = probed(grid(model=("m",)), configs={"m": {"model_type": "bart"}})
    assert {case.floor_s for case in summarize_run(run)} == {None}


def test_published_peaks_take_the_place_of_a_probe() -> None:
    environment = make_environment(devices=(Device(name="cuda", hardware="Tesla T4"),))
    run = run_of(grid(device=("cuda",)), environment=environment)
    assert {case.rates for case in summarize_run(run)} == {"published"}


def test_what_limits_each_arm() -> None:
    """Without a cache arithmetic dominates, with one bandwidth; both are close to their lower
    bound.
    """

    def seconds(case: Case) -> float:
        sizes = (case.batch_size, 6, case.max_new_tokens, case.dtype)
        return 1.5 * floor(GPT2, case.cache, *sizes, rates()).seconds

    off, on = arms(probed(grid(seconds)))
    assert (off.limited_by, on.limited_by) == ("arithmetic", "bandwidth")
    assert off.mfu == pytest.approx(1 / 1.5, rel=0.05)
    assert on.mbu == pytest.approx(1 / 1.5, rel=0.05)


def test_an_expectation_is_told_of_the_longest_length() -> None:
    run = probed(grid(batch_size=(1, 2)))
    found = expectations(summarize_run(run), run.info)
    assert [(one.on.batch_size, one.on.max_new_tokens) for one in found] == [(1, 100), (2, 100)]
    assert {one.off.cache for one in found} == {"off"}
    assert [one.rates for one in found] == [rates()] * 2
    assert expectations(summarize_run(run_of(grid())), run.info) == ()


def test_overhead_moves_the_length_from_which_it_pays() -> None:
    """20 ms per step on a board that reads GPT-2 in half a millisecond."""
    fast = rates(read_bytes_per_s=1e12, flops_per_s={"float32": 50e12})
    run = probed(grid(lambda case: 0.02 * case.max_new_tokens), rates=(fast,))
    (one,) = expectations(summarize_run(run), run.info)
    assert one.on.limited_by == "overhead"
    assert one.overhead_s == pytest.approx(0.02)
    off, on = (floor(GPT2, name, 1, 6, 1 << 16, "float32", fast) for name in ("off", "dynamic"))
    assert one.pays_from == pays_from(off, on, one.overhead_s or 0.0)
    assert one.pays_from and one.pays_from > (pays_from(off, on) or 0)


def test_the_table_has_the_floors() -> None:
    table = summarize(probed())
    assert table["floor_s"].notna().all()
    assert set(table["rates"]) == {"probe"}
