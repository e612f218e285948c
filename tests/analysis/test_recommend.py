"""Tests of kvbench/analysis/recommend.py: an answer only where the measurements carry it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pytest

from kvbench.analysis.recommend import recommend
from kvbench.analysis.statistics import fastest
from kvbench.analysis.summary import CaseSummary, summarize_cases
from kvbench.plan.case import Task
from kvbench.records.sample import Sample
from kvbench.report.figures.tradeoff import pareto
from kvbench.report.recommend import dumped, recommendation_json, recommendation_sentences
from tests.fakes import make_case, make_task, timed_sample

FP8 = "quantized:backend=fp8"
WINDOW = "window:size=64"
SIZES = {"off": 0, "dynamic": 100 << 20, FP8: 30 << 20, WINDOW: 20 << 20}


def samples(times: Mapping[str, list[float]]) -> list[Sample]:
    return [
        timed_sample(
            Task(make_case(cache=cache, weights="pretrained"), "measure", number, number, 100),
            total,
            cache_allocated_bytes=SIZES[cache],
        )
        for cache, totals in times.items()
        for number, total in enumerate(totals)
    ]


def judged(times: Mapping[str, list[float]], **ratios: float) -> tuple[CaseSummary, ...]:
    """Summaries with the upper end of the perplexity of a strategy: fp8 and window."""
    ends = {FP8: ratios.get("fp8"), WINDOW: ratios.get("window")}
    return tuple(
        dataclasses.replace(case, perplexity_ratio_high=ends.get(case.cache))
        for case in summarize_cases(samples(times))
    )


def steady(*totals: float, rounds: int = 8) -> Mapping[str, list[float]]:
    return {
        cache: [total * (1 + 0.001 * number) for number in range(rounds)]
        for cache, total in zip(SIZES, totals, strict=False)
    }


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("rounds", [8, 12])
def test_with_all_equally_fast_at_most_5_percent_of_runs_name_a_fastest(
    count: int, rounds: int
) -> None:
    rng = np.random.default_rng(17)
    named = 0
    for _ in range(500):
        # What a round shares cancels out; the rest is as on a busy machine, with a long tail.
        shared = rng.lognormal(0.0, 0.3, rounds)
        times = shared * rng.lognormal(0.0, 0.1, (count, rounds))
        named += fastest({str(place): list(own) for place, own in enumerate(times)}) is not None
    assert named <= 25


def test_two_equally_fast_ahead_of_the_rest_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(18)
    named = 0
    for _ in range(500):
        times = rng.lognormal(0.0, 0.05, (4, 10)) * np.array([[1], [1], [2], [2]])
        named += fastest({str(place): list(own) for place, own in enumerate(times)}) is not None
    assert named <= 25


def test_what_is_faster_in_every_round_is_named() -> None:
    times = steady(2.0, 1.0, 1.2, 1.5)
    [one] = recommend(judged(times), samples(times))
    assert (one.fastest.cache, one.fastest.next) == ("dynamic", FP8)
    assert one.fastest.value == pytest.approx(1.2)


def test_too_few_rounds_name_nothing() -> None:
    times = steady(2.0, 1.0, 1.2, 1.5, rounds=6)
    [one] = recommend(judged(times), samples(times))
    assert (one.fastest.cache, one.fastest.reason) == (None, "too_few_rounds")
    assert (one.rounds, one.rounds_needed) == (6, 7)


def test_equal_times_name_nothing() -> None:
    times = steady(1.0, 1.0, 1.0, 1.0)
    [one] = recommend(judged(times), samples(times))
    assert one.fastest.reason == "not_distinct"


def test_a_lossy_strategy_is_small_enough_only_where_its_quality_is_shown() -> None:
    times = steady(2.0, 1.0, 1.2, 1.5)
    rows = samples(times)
    [unknown] = recommend(judged(times), rows)
    assert (unknown.smallest.cache, unknown.smallest_within.cache) == (WINDOW, "dynamic")
    [known] = recommend(judged(times, fp8=1.009, window=4.0), rows)
    assert (known.smallest_within.cache, known.smallest_within.value) == (FP8, 30 << 20)
    [wide] = recommend(judged(times, fp8=1.011), rows)
    assert wide.smallest_within.cache == "dynamic"


def test_the_sentence_and_the_data_say_the_same() -> None:
    times = steady(2.0, 1.0, 1.2, 1.5)
    found = recommend(judged(times, fp8=1.009), samples(times))
    [sentence] = recommendation_sentences(found)
    assert "fastest: dynamic (1.20x as fast as quantized:backend=fp8)" in sentence
    assert "smallest cache: window:size=64 (20.0 MiB)" in sentence
    assert "smallest within 1% perplexity: quantized:backend=fp8 (30.0 MiB)" in sentence
    [run] = json.loads(dumped([recommendation_json("run", found)]))["runs"]
    [model] = run["models"]
    assert model["fastest"] == {
        "cache": "dynamic",
        "reason": None,
        "ratio_to_next": 1.2,
        "next": FP8,
    }
    assert model["smallest_within_1_percent_perplexity"]["cache_bytes"] == 30 << 20


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert pareto([(0, 2), (1, 1), (1, 2), (2, 1), (1, 1)]) == [True, True, False, False, True]


def test_with_one_strategy_that_caches_there_is_nothing_to_choose() -> None:
    times = steady(2.0, 1.0)
    assert recommend(judged(times), samples(times)) == ()


def test_the_case_of_a_conversation_is_named_by_its_turn() -> None:
    rows = [
        timed_sample(make_task(make_case(cache=cache, turn=2, workload="chat:turns=2"), 0), 1.0)
        for cache in ("dynamic", "static")
    ]
    (found,) = recommend(summarize_cases(rows), rows)
    (model,) = json.loads(dumped([recommendation_json("run", [found])]))["runs"][0]["models"]
    assert (model["turn"], model["reuse"], model["workload"]) == (2, "turn", "chat:turns=2")
    (sentence,) = recommendation_sentences([found])
    assert "reuse turn, turn 2" in sentence
