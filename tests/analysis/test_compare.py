"""Tests of kvbench/analysis/compare.py."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from kvbench.analysis.compare import (
    BY,
    PAIRED,
    Comparison,
    Rule,
    Side,
    compare,
    mean_ratio,
)
from kvbench.analysis.metrics import METRICS, Metric
from kvbench.analysis.statistics import (
    holm,
    mann_whitney,
    paired_ratio,
    ratio_interval,
    signed_rank,
)
from kvbench.errors import UserError
from kvbench.plan.case import Case, Prompt
from kvbench.records.sample import Sample, sample_of
from tests.fakes import LEGACY, OTHER, arm, by_column, make_case, make_task, timed_sample

QUIET = [1.0, 1.01, 0.99, 1.005, 0.995, 1.002, 0.998, 1.001, 0.999, 1.003]
"""Ten times with half a percent of noise."""


def times(factor: float = 1.0) -> list[float]:
    return [factor * value for value in QUIET]


def side(name: str, *samples: list[Sample]) -> Side:
    return Side(name, (by_column(sample for several in samples for sample in several),))


def failed(case: Case, status: Any = "oom", repeat: int = 0, **fields: Any) -> list[Sample]:
    known: dict[str, Any] = {"status": status, "stage": "decode", "error": "no room"}
    return [sample_of(make_task(case, repeat), **(known | fields))]


def only(a: Side, b: Side, by: str = "run", rule: Rule | None = None) -> Comparison:
    rows, unmatched = compare(a, b, by=by, rule=rule)
    assert unmatched == ()
    (row,) = rows
    return row


def verdict(a: list[float], b: list[float], rule: Rule | None = None) -> str | None:
    case = make_case()
    return only(side("a", arm(case, a)), side("b", arm(case, b)), rule=rule).verdict


# The figures of a row


def test_the_ratio_is_the_time_of_b_over_that_of_a() -> None:
    case = make_case()
    row = only(side("old", arm(case, times(2.0))), side("new", arm(case, times(0.5))))
    assert (row.a, row.b) == ("old", "new")
    assert row.a_total_s == np.median(times(2.0))
    assert row.b_total_s == np.median(times(0.5))
    assert row.ratio == pytest.approx(0.25)
    assert (row.ratio_ci95_low, row.ratio_ci95_high) == ratio_interval(times(0.5), times(2.0))
    assert row.verdict == "faster"
    assert (row.a_samples, row.b_samples) == (10, 10)


def test_swapping_the_sides_inverts_the_ratio_and_the_verdict() -> None:
    a, b = (side(name, arm(make_case(), times(f))) for name, f in (("a", 1.0), ("b", 1.3)))
    there, back = only(a, b), only(b, a)
    assert there.ratio * back.ratio == pytest.approx(1.0)
    assert (there.verdict, back.verdict) == ("slower", "faster")
    assert there.p_value == back.p_value


def test_the_row_says_which_case_it_is() -> None:
    case = make_case(batch_size=3, prompt=Prompt.of_tokens(7), cache="off")
    row = only(side("a", arm(case, times())), side("b", arm(case, times())))
    assert {name: getattr(row, name) for name in BY if name != "run"} == {
        "model": "gpt2",
        "weights": "random",
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "cache": "off",
        "batch_size": 3,
        "prompt": "tokens:7",
        "max_new_tokens": 100,
        **LEGACY,
    }


def test_the_memory_ratio_is_of_median_peaks() -> None:
    case = make_case()

    def peaks(*sizes: int) -> list[Sample]:
        return [
            timed_sample(make_task(case, i), 1.0, rss_peak_bytes=size)
            for i, size in enumerate(sizes)
        ]

    row = only(side("a", peaks(100, 200, 900)), side("b", peaks(300, 300, 300)))
    assert (row.a_memory_bytes, row.b_memory_bytes) == (200, 300)
    assert row.memory_ratio == 1.5


def test_memory_that_was_not_read_is_null() -> None:
    case = make_case()
    unread = arm(case, times(), rss_peak_bytes=None)
    row = only(side("a", unread), side("b", arm(case, times())))
    assert (row.a_memory_bytes, row.memory_ratio) == (None, None)
    assert row.b_memory_bytes == 600 << 20


def test_memory_is_compared_within_one_method_only() -> None:
    used = {"nvml_peak_bytes": 1000, "torch_peak_allocated_bytes": 300, "rss_peak_bytes": None}
    old, new = ("nvml-used+torch-allocator", "nvml-used-v2")
    a = side("a", arm(make_case(), [1.0] * 3, memory_method=old, **used))
    b = side(
        "b", arm(make_case(), [1.0] * 3, memory_method=new, **(used | {"nvml_peak_bytes": 500}))
    )
    # What both sides read in the same way: torch's allocator.
    assert only(a, b).memory_ratio == 1.0
    assert only(a, b).a_memory_bytes == 300
    without = used | {"torch_peak_allocated_bytes": None}
    c, d = (
        side("x", arm(make_case(), [1.0] * 3, memory_method=how, **without)) for how in (old, new)
    )
    assert only(c, d).memory_ratio is None
    assert only(c, c).memory_ratio == 1.0


def test_memory_of_a_pass_of_its_own_counts_and_that_of_a_warm_up_does_not() -> None:
    case = make_case()

    def measured(peak: int) -> list[Sample]:
        read = timed_sample(make_task(case, phase="memory"), 1.0, rss_peak_bytes=peak)
        warm = timed_sample(make_task(case, phase="warmup"), 1.0, rss_peak_bytes=9)
        return [warm, dataclasses.replace(read, total_s=None)]

    a = side("a", arm(case, times(), rss_peak_bytes=None), measured(100))
    b = side("b", arm(case, times(), rss_peak_bytes=None), measured(125))
    assert only(a, b).memory_ratio == 1.25


def test_of_a_sample_that_was_tried_again_the_last_attempt_counts() -> None:
    case = make_case()
    first = [sample_of(make_task(case), status="crashed", stage="decode", error="died")]
    slow = [timed_sample(make_task(case, 1), 99.0)]
    again = [
        timed_sample(make_task(case, 0, attempt=1), 1.0),
        timed_sample(make_task(case, 1, attempt=1), 1.1),
    ]
    row = only(side("a", first, slow, again), side("b", arm(case, [1.0, 1.1])))
    assert (row.a_samples, row.a_total_s) == (2, 1.05)


def test_a_last_attempt_that_failed_takes_the_earlier_one_away(snapshot: object) -> None:
    case = make_case()
    ended = sample_of(make_task(case, 1, attempt=1), status="oom", stage="decode", error="full")
    a, b = side("a", arm(case, [1.0, 9.0]), [ended]), side("b", arm(case, [1.0]))
    (row,), (gap,) = compare(a, b)
    assert (row.a_samples, row.a_total_s) == (1, 1.0)
    assert gap.reason == snapshot


def test_warm_ups_do_not_count() -> None:
    case = make_case()
    warm = [timed_sample(make_task(case, phase="warmup"), 50.0)]
    row = only(side("a", warm, arm(case, times())), side("b", arm(case, times())))
    assert (row.a_samples, row.ratio) == (10, 1.0)


# Matching


@pytest.mark.parametrize("axis", OTHER)
def test_cases_are_matched_on_all_but_the_axis(axis: str) -> None:
    here, there = make_case(), make_case(**{axis: OTHER[axis]})
    a, b = side("a", arm(here, times())), side("b", arm(there, times()))
    assert only(a, b, axis).ratio == 1.0
    assert getattr(only(a, b, axis), axis) is None
    rows, unmatched = compare(a, b)
    assert rows == ()
    assert [(one.side, one.reason) for one in unmatched] == [
        ("a", "not in b"),
        ("b", "not in a"),
    ]


def test_what_is_compared_are_the_same_cases_and_no_others(snapshot: object) -> None:
    """Three cases per side, one in common, in each of two sizes."""
    a = side("a", *(arm(make_case(max_new_tokens=n), times(n)) for n in (10, 20, 30)))
    b = side("b", *(arm(make_case(max_new_tokens=n), times(2 * n)) for n in (40, 30, 20)))
    rows, unmatched = compare(a, b)
    assert [(row.max_new_tokens, round(row.ratio, 9)) for row in rows] == [(20, 2.0), (30, 2.0)]
    assert [(one.side, one.case, one.reason) for one in unmatched] == snapshot


@pytest.mark.parametrize("fails", ["a", "b"])
@pytest.mark.parametrize("status", ["oom", "timeout", "crashed", "skipped_oom", "unsupported"])
def test_a_case_that_failed_on_one_side_is_listed_with_its_reason(
    fails: str, status: str, snapshot: object
) -> None:
    case = make_case()
    sides = {name: side(name, arm(case, times())) for name in "ab"}
    sides[fails] = side(fails, failed(case, status))
    rows, unmatched = compare(sides["a"], sides["b"])
    assert rows == ()
    assert unmatched == snapshot


def test_a_case_that_failed_after_some_samples_is_compared_and_listed(snapshot: object) -> None:
    case = make_case()
    cut = [*arm(case, times()[:3]), *failed(case, "crashed", repeat=3)]
    rows, unmatched = compare(side("a", arm(case, times())), side("b", cut))
    assert [(row.a_samples, row.b_samples) for row in rows] == [(10, 3)]
    assert [(one.side, one.reason, one.failed) for one in unmatched] == snapshot


def test_a_case_that_failed_on_both_sides_is_listed_for_both(snapshot: object) -> None:
    case = make_case()
    rows, unmatched = compare(side("a", failed(case)), side("b", failed(case, "timeout")))
    assert rows == ()
    assert [(one.side, one.reason) for one in unmatched] == snapshot


def test_a_case_that_failed_here_and_was_not_asked_for_there_has_failed(snapshot: object) -> None:
    _, unmatched = compare(side("a", failed(make_case())), side("b"))
    assert [one.reason for one in unmatched] == snapshot


def test_a_case_of_warm_ups_alone_has_no_sample(snapshot: object) -> None:
    case = make_case()
    warm = [timed_sample(make_task(case, phase="warmup"), 1.0)]
    _, unmatched = compare(side("a", warm), side("b", arm(case, times())))
    assert unmatched == snapshot


def test_a_failure_without_words_reads_as_a_sentence() -> None:
    case = make_case()
    _, unmatched = compare(side("a", failed(case, error=None)), side("b", arm(case, times())))
    (one,) = unmatched
    assert "None" not in one.reason
    assert one.reason.startswith("oom")


@pytest.mark.parametrize("axis", ["prompt", "weights", "attention"])
def test_two_cases_that_were_left_out_can_be_told_apart(axis: str) -> None:
    cases = [make_case(), make_case(**{axis: OTHER[axis]})]
    _, unmatched = compare(side("a", *(arm(case, times()) for case in cases)), side("b"))
    assert len({one.case for one in unmatched}) == 2


def test_no_case_is_lost() -> None:
    """Every case of either side is in a row or is listed."""
    rng = np.random.default_rng(1)
    cases = [make_case(max_new_tokens=n, batch_size=b) for n in (1, 2, 3) for b in (1, 2, 3)]

    def some(name: str) -> Side:
        states = rng.choice(["timed", "failed", "gone"], len(cases))
        made = {"timed": lambda c: arm(c, times()), "failed": failed, "gone": lambda c: []}
        return side(name, *(made[state](case) for case, state in zip(cases, states, strict=True)))

    for _ in range(20):
        a, b = some("a"), some("b")
        rows, unmatched = compare(a, b)
        ids = {case_id for side in (a, b) for run in side.runs for case_id in run["case_id"]}
        told = {(row.batch_size, row.max_new_tokens) for row in rows}
        assert len(told) == len(rows)
        labels = {one.case for one in unmatched}
        assert len(told) + len(labels) == len(ids)


def test_an_axis_that_there_is_not_is_a_sentence(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        compare(side("a"), side("b"), by="devise")
    assert str(caught.value) == snapshot


def test_empty_sides_have_no_rows() -> None:
    assert compare(side("a"), side("b")) == ((), ())


# Verdicts


@pytest.mark.parametrize(
    ("a", "b", "judged"),
    [
        ("cpu", "cuda", False),
        ("cuda", "cpu", False),
        ("cpu", "cuda:1", False),
        ("cuda", "cuda:1", True),
        ("cuda:0", "cuda:1", True),
    ],
)
def test_there_is_no_verdict_between_a_cpu_and_a_gpu(a: str, b: str, judged: bool) -> None:
    row = only(
        side(a, arm(make_case(device=a), times())),
        side(b, arm(make_case(device=b), times(2.0))),
        "device",
    )
    assert row.ratio == pytest.approx(2.0)
    assert row.ratio_ci95_low is not None
    assert row.verdict == ("slower" if judged else None)
    assert (row.p_value is not None) is judged
    assert row.samples_needed is None


def test_a_run_that_is_called_cpu_is_judged() -> None:
    case = make_case()
    row = only(side("cpu", arm(case, times())), side("cuda", arm(case, times(2.0))))
    assert row.verdict == "slower"


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.2, "slower"), (1 / 1.2, "faster"), (1.0, "same"), (1.02, "same"), (0.98, "same")],
)
def test_the_verdict(factor: float, expected: str) -> None:
    assert verdict(times(), times(factor)) == expected


def test_the_threshold_is_the_same_both_ways() -> None:
    rule = Rule(threshold=0.25)
    assert verdict(times(), times(1.26), rule) == "slower"
    assert verdict(times(), times(1 / 1.26), rule) == "faster"
    assert verdict(times(), times(1.2), rule) == "same"
    assert verdict(times(), times(1 / 1.2), rule) == "same"


def test_a_difference_that_may_be_chance_is_unclear() -> None:
    wide = [1.0, 1.5, 0.7, 1.3, 0.8, 1.1]
    assert verdict(wide, [1.2 * value for value in wide]) == "unclear"


def test_few_samples_are_unclear_however_far_apart() -> None:
    row = only(
        side("a", arm(make_case(), times()[:4])), side("b", arm(make_case(), times(3.0)[:4]))
    )
    assert row.verdict == "unclear"
    assert (row.ratio_ci95_low, row.ratio_ci95_high) == (None, None)
    assert row.samples_needed is not None
    assert row.samples_needed >= 6


def test_the_p_value_is_corrected_over_the_rows() -> None:
    rng = np.random.default_rng(3)
    drawn = {n: (rng.lognormal(0, 0.1, 8), rng.lognormal(0.1, 0.1, 8)) for n in (10, 20, 30, 40)}
    a, b = (
        side(name, *(arm(make_case(max_new_tokens=n), both[i]) for n, both in drawn.items()))
        for i, name in enumerate("ab")
    )
    rows, _ = compare(a, b)
    alone = [mann_whitney(x.tolist(), y.tolist()) for x, y in drawn.values()]
    assert [row.p_value for row in rows] == pytest.approx(holm(alone))
    assert [row.p_value for row in rows] != pytest.approx(alone)


def test_samples_needed_is_for_what_is_unclear() -> None:
    wide = [1.0, 1.5, 0.7, 1.3, 0.8, 1.1]
    case = make_case()
    row = only(side("a", arm(case, wide)), side("b", arm(case, [1.3 * value for value in wide])))
    assert row.verdict == "unclear"
    assert row.samples_needed is not None
    assert 6 < row.samples_needed <= 1000
    clear = only(side("a", arm(case, times())), side("b", arm(case, times(2))))
    assert clear.samples_needed is None


def test_what_a_thousand_samples_would_not_settle_has_no_number() -> None:
    """A ratio exactly on the threshold, with wide noise."""
    wide = [1.0, 1.5, 0.7, 1.3, 0.8, 1.1, 0.9]
    case = make_case()
    row = only(side("a", arm(case, wide)), side("b", arm(case, [1.0499 * value for value in wide])))
    assert (row.verdict, row.samples_needed) == ("unclear", None)


def test_a_single_sample_a_side_is_compared() -> None:
    case = make_case()
    row = only(side("a", arm(case, [1.0])), side("b", arm(case, [2.0])))
    assert (row.ratio, row.verdict, row.p_value) == (2.0, "unclear", 1.0)


# Within one run

OFF, ON = make_case(cache="off"), make_case()


def by_cache(off: list[Sample], on: list[Sample]) -> Comparison:
    return only(side("off", off), side("dynamic", on), "cache")


@pytest.mark.parametrize(("axis", "value"), [(name, OTHER[name]) for name in PAIRED], ids=PAIRED)
def test_sides_that_share_rounds_are_compared_within_them(axis: str, value: Any) -> None:
    slower = np.linspace(1.0, 2.0, 10)
    here, there = (slower * times(f) for f in (1.0, 1.2))
    a, b = arm(ON, here.tolist()), arm(make_case(**{axis: value}), there.tolist())
    row = only(side("a", a), side("b", b), axis)
    expected = paired_ratio(there.tolist(), here.tolist())
    assert (row.rounds, row.ratio) == (10, expected.ratio)
    assert (row.ratio_ci95_low, row.ratio_ci95_high) == (expected.low, expected.high)
    assert row.p_value == signed_rank(there.tolist(), here.tolist()) == 2 / 2**10
    # Unpaired, the drift would hide it.
    assert row.verdict == "slower"


@pytest.mark.parametrize("axis", sorted({*BY} - {*PAIRED}))
def test_sides_that_share_no_rounds_by_design_are_compared_as_they_are(axis: str) -> None:
    there = make_case() if axis == "run" else make_case(**{axis: OTHER[axis]})
    row = only(side("a", arm(ON, times())), side("b", arm(there, times(1.2))), axis)
    assert row.rounds is None
    assert (row.ratio_ci95_low, row.ratio_ci95_high) == ratio_interval(times(1.2), times())


def test_only_shared_rounds_of_one_process_are_compared() -> None:
    off, on = arm(OFF, times(2.0)), arm(ON, times())
    on = [dataclasses.replace(s, worker=int(s.round > 6)) for s in on if s.round != 3]
    row = by_cache(off, on)
    assert (row.a_samples, row.b_samples, row.rounds) == (10, 9, 6)
    assert row.ratio == pytest.approx(0.5)


def test_runs_that_are_pooled_share_no_rounds_with_each_other() -> None:
    """Both runs have a round 0; the machine of the second is twice as slow."""
    off = [by_column(arm(OFF, [2.0 * f] * 6)) for f in (1.0, 2.0)]
    on = [by_column(arm(ON, [1.0 * f] * 6)) for f in (1.0, 2.0)]
    rows, _ = compare(Side("off", tuple(off)), Side("dynamic", tuple(on)), by="cache")
    assert [(row.rounds, row.ratio_ci95_low, row.ratio_ci95_high) for row in rows] == [
        (12, 0.5, 0.5)
    ]


def test_without_a_shared_round_the_medians_are_shown_and_nothing_is_claimed() -> None:
    on = [dataclasses.replace(s, worker=1) for s in arm(ON, times())]
    row = by_cache(arm(OFF, times(2.0)), on)
    assert (row.rounds, row.ratio, row.ratio_ci95_low) == (0, pytest.approx(0.5), None)
    assert (row.verdict, row.p_value, row.samples_needed) == ("unclear", 1.0, 8)


def test_five_shared_rounds_are_unclear_however_far_apart() -> None:
    row = by_cache(arm(OFF, times(9.0)[:5]), arm(ON, times()[:5]))
    assert (row.rounds, row.ratio_ci95_low, row.verdict) == (5, None, "unclear")
    assert row.samples_needed == 8


def test_the_number_of_rounds_that_is_promised_can_tell() -> None:
    row = by_cache(arm(OFF, times(2.0)[:6]), arm(ON, times()[:6]))
    assert row.verdict == "unclear"
    assert row.samples_needed == 8
    assert by_cache(arm(OFF, times(2.0)[:8]), arm(ON, times()[:8])).verdict == "faster"


@pytest.mark.parametrize("by", ["run", "cache"])
def test_cold_samples_are_left_out_and_counted(by: str) -> None:
    a = arm(OFF if by == "cache" else ON, [9.0, *times()])
    row = only(side("a", a), side("b", arm(ON, [1.0, *times()])), by)
    assert (row.a_cold_starts, row.b_cold_starts) == (1, 0)
    assert (row.a_samples, row.b_samples) == (10, 11)
    assert row.rounds == (10 if by == "cache" else None)
    assert row.a_total_s == np.median(times())
    assert row.ratio == pytest.approx(1.0, abs=0.001)
    assert row.verdict == "same"


def test_the_memory_of_a_cold_sample_counts() -> None:
    cold = arm(ON, [9.0, 1.0, 1.0], rss_peak_bytes=300)
    row = only(side("a", arm(ON, [1.0] * 3, rss_peak_bytes=100)), side("b", cold))
    assert (row.b_cold_starts, row.memory_ratio) == (1, 3.0)


# The geometric mean


def rows_with(*ratios: float) -> list[Comparison]:
    return [
        Comparison(
            a="a", b="b", a_samples=1, b_samples=1, a_total_s=1.0, b_total_s=ratio, ratio=ratio
        )
        for ratio in ratios
    ]


def test_the_mean_ratio_is_geometric() -> None:
    assert mean_ratio(rows_with(2.0, 8.0)) == pytest.approx(4.0)
    assert mean_ratio([]) is None


def test_the_mean_of_the_comparison_the_other_way_is_the_inverse() -> None:
    factors = (0.5, 1.3, 2.0, 7.0)
    a = side("a", *(arm(make_case(max_new_tokens=i + 1), times()) for i in range(4)))
    b = side("b", *(arm(make_case(max_new_tokens=i + 1), times(f)) for i, f in enumerate(factors)))
    there, back = mean_ratio(compare(a, b)[0]), mean_ratio(compare(b, a)[0])
    assert there is not None and back is not None
    assert there == pytest.approx(math.prod(factors) ** 0.25)
    assert there * back == pytest.approx(1.0)


# Energy


def powered(
    case: Case, joules: list[float | None], method: str | None = "counter", drift: float = 0.0
) -> list[Sample]:
    """Return samples of one second with their energy per token; null with the reason `method`."""
    tokens = case.batch_size * case.max_new_tokens
    return [
        timed_sample(
            make_task(case, repeat),
            1.0,
            energy_j=None if one is None else one * tokens * (1 + drift * repeat),
            energy_method=method,
        )
        for repeat, one in enumerate(joules)
    ]


def joules_of(factor: float, count: int = 10) -> list[float | None]:
    return [factor * QUIET[i % len(QUIET)] for i in range(count)]


def test_energy_is_compared_per_new_token_of_the_batch() -> None:
    case = make_case(batch_size=4)
    a, b = side("a", powered(case, joules_of(2.0))), side("b", powered(case, joules_of(5.0)))
    (row,), unmatched = compare(a, b, metric="energy")
    assert unmatched == ()
    assert (row.metric, row.verdict) == ("energy", "more")
    assert row.a_energy_j_per_token == pytest.approx(float(np.median(times(2.0))))
    assert row.b_energy_j_per_token == pytest.approx(float(np.median(times(5.0))))
    assert row.ratio == pytest.approx(2.5)
    assert (row.ratio_ci95_low, row.ratio_ci95_high) == pytest.approx(
        ratio_interval(times(5.0), times(2.0))
    )
    assert (row.a_total_s, row.b_total_s) == (1.0, 1.0)
    ((back,), _) = compare(b, a, metric="energy")
    assert (back.verdict, back.p_value) == ("less", row.p_value)


def test_a_comparison_of_times_has_the_energy_too() -> None:
    case = make_case()
    row = only(side("a", powered(case, joules_of(2.0))), side("b", arm(case, times())))
    assert (row.metric, row.ratio) == ("time", pytest.approx(1.0005))
    assert row.a_energy_j_per_token is not None and row.b_energy_j_per_token is None


def test_energy_is_paired_within_rounds_where_times_are() -> None:
    """A board that draws three times as much at the end changes both sides alike."""
    off, on = make_case(cache="off"), make_case()
    a = side("off", powered(off, joules_of(2.0), drift=0.2))
    b = side("dynamic", powered(on, joules_of(1.0)[::-1], drift=0.2))
    ((row,), _) = compare(a, b, by="cache", metric="energy")
    above, below = (
        [one.energy_j or 0.0 for one in found]
        for found in (
            powered(on, joules_of(1.0)[::-1], drift=0.2),
            powered(off, joules_of(2.0), drift=0.2),
        )
    )
    found = paired_ratio(above, below)
    assert (row.rounds, row.verdict) == (10, "less")
    assert (row.ratio, row.ratio_ci95_low, row.ratio_ci95_high) == pytest.approx(
        (found.ratio, found.low, found.high)
    )
    assert 0.47 < found.ratio < 0.53


def test_rounds_in_which_a_side_has_no_energy_do_not_count() -> None:
    off, on = make_case(cache="off"), make_case()
    gaps = [None if i in (1, 4) else 1.0 for i in range(10)]
    a, b = side("off", powered(off, joules_of(2.0))), side("dynamic", powered(on, gaps))
    ((row,), _) = compare(a, b, by="cache", metric="energy")
    assert (row.a_samples, row.b_samples, row.rounds) == (10, 8, 8)


def test_a_counter_that_stood_still_has_no_ratio() -> None:
    case = make_case()
    a = side("a", powered(case, joules_of(2.0)))
    b = side("b", powered(case, [0.0, *joules_of(2.0)]))
    ((row,), _) = compare(a, b, metric="energy")
    assert (row.a_samples, row.b_samples, row.ratio) == (10, 10, pytest.approx(1.0))


def test_energy_is_compared_only_where_it_was_read_in_the_same_way(snapshot: object) -> None:
    case = make_case()
    a = side("a", powered(case, joules_of(2.0), "board"))
    b = side("b", powered(case, joules_of(2.0), "package"))
    rows, unmatched = compare(a, b, metric="energy")
    assert rows == ()
    assert [(one.side, one.reason, one.failed) for one in unmatched] == snapshot


def test_of_several_ways_the_one_that_both_sides_have_is_compared() -> None:
    case = make_case()
    mixed = [*powered(case, joules_of(9.0, 3), "package"), *powered(case, joules_of(2.0), "board")]
    mixed = [dataclasses.replace(s, repeat=i, round=i) for i, s in enumerate(mixed)]
    a, b = side("a", mixed), side("b", powered(case, joules_of(4.0), "board"))
    ((row,), unmatched) = compare(a, b, metric="energy")
    assert unmatched == ()
    assert (row.a_samples, row.ratio) == (10, pytest.approx(2.0))


def test_a_case_without_energy_is_listed_with_the_reason(snapshot: object) -> None:
    off, on = make_case(cache="off"), make_case()
    a = side("a", powered(off, joules_of(2.0)), powered(on, joules_of(1.0)))
    b = side("b", powered(off, joules_of(2.0)), powered(on, [None] * 9, "none: too short"))
    rows, unmatched = compare(a, b, metric="energy")
    assert [row.cache for row in rows] == ["off"]
    assert [(one.side, one.reason) for one in unmatched] == snapshot


def test_a_case_that_failed_and_has_no_energy_says_both(snapshot: object) -> None:
    case = make_case()
    a = side("a", powered(case, joules_of(2.0)))
    b = side("b", powered(case, [None], None), failed(case, repeat=1))
    rows, (one,) = compare(a, b, metric="energy")
    assert rows == ()
    assert one.side == "b"
    assert one.reason == snapshot
    assert one.failed


def test_there_is_no_other_metric(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        compare(side("a"), side("b"), metric="mass")
    assert str(caught.value) == snapshot


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_the_columns_of_a_metric_are_there(metric: Metric) -> None:
    names = {field.name for field in dataclasses.fields(Comparison)}
    assert {f"a_{metric.field}", f"b_{metric.field}"} <= names
    samples = {field.name for field in dataclasses.fields(Sample)}
    assert {metric.column, *filter(None, [metric.method])} <= samples
