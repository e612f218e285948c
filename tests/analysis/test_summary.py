"""Tests of kvbench/analysis/summary.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvbench.analysis.expected import summarize
from kvbench.analysis.statistics import paired_ratio
from kvbench.analysis.summary import CaseSummary, summarize_cases
from kvbench.plan.case import Case, Prompt
from kvbench.records.run import load_run
from kvbench.records.sample import Sample, sample_of
from tests.fakes import arm, make_case, make_task, timed_sample, write_run

OFF, ON = make_case(cache="off"), make_case(cache="dynamic")


def summary_of(samples: Sequence[Sample], cache: str = "dynamic") -> CaseSummary:
    (found,) = [case for case in summarize_cases(samples) if case.cache == cache]
    return found


# One strategy


def test_medians_and_quartiles_are_of_the_counted_samples() -> None:
    case = summary_of(arm(ON, [0.1, 0.4, 0.2, 0.3, 0.9]))
    assert case.samples == 5
    assert case.total_s_median == 0.3
    assert (case.total_s_q1, case.total_s_q3) == (0.2, 0.4)
    assert (case.total_s_min, case.total_s_max) == (0.1, 0.9)


def test_of_a_sample_that_was_tried_again_the_last_attempt_counts() -> None:
    lost = sample_of(make_task(ON, 1), status="crashed", error="Killed.")
    again = timed_sample(make_task(ON, 1, attempt=1), 0.75)
    tried = [*arm(ON, [0.25]), lost, again]
    case = summary_of(tried)
    assert (case.status, case.samples, case.total_s_median, case.error) == ("ok", 2, 0.5, None)
    case = summary_of(tried[:2])
    assert (case.status, case.samples, case.error) == ("crashed", 1, "Killed.")


def test_an_even_number_of_samples_has_the_mean_of_the_middle_ones() -> None:
    case = summary_of(arm(ON, [1.0, 2.0, 4.0, 8.0]))
    assert (case.total_s_median, case.total_s_q1, case.total_s_q3) == (3.0, 1.75, 5.0)


def test_each_time_has_a_median_of_its_own() -> None:
    samples = [
        timed_sample(make_task(ON, i), 1.0, ttft_s=ttft, itl_s=itl, tokens_per_s=rate)
        for i, (ttft, itl, rate) in enumerate(
            [(0.3, 0.01, 7.0), (0.1, 0.03, 9.0), (0.2, 0.02, 8.0)]
        )
    ]
    case = summary_of(samples)
    assert (case.ttft_s_median, case.itl_s_median, case.tokens_per_s_median) == (0.2, 0.02, 8.0)


def test_a_time_that_is_not_known_leaves_the_median_of_those_that_are() -> None:
    samples = [
        timed_sample(make_task(ON, 0), 1.0, ttft_s=0.3, itl_s=None),
        timed_sample(make_task(ON, 1), 1.0, ttft_s=None, itl_s=None),
    ]
    assert (summary_of(samples).ttft_s_median, summary_of(samples).itl_s_median) == (0.3, None)


def test_warmups_and_memory_passes_are_not_counted() -> None:
    others = [
        timed_sample(make_task(ON, phase="warmup", new_tokens=16), 99.0),
        timed_sample(make_task(ON, phase="memory"), 77.0),
    ]
    case = summary_of([*others, *arm(ON, [0.2, 0.4])])
    assert (case.samples, case.total_s_median, case.total_s_max) == (2, pytest.approx(0.3), 0.4)


def test_the_case_is_told_as_in_the_samples(snapshot: object) -> None:
    case = summary_of(arm(ON, [0.5]))
    assert (case.case_id, case.model, case.weights, case.device) == (ON.id, "gpt2", "random", "cpu")
    assert (case.dtype, case.attention, case.cache, case.use_cache) == (
        "float32",
        "sdpa",
        "dynamic",
        True,
    )
    assert (case.batch_size, case.max_new_tokens, case.prompt_tokens) == (1, 100, 6)
    assert case.prompt == snapshot


def test_sizes_are_those_that_were_seen() -> None:
    case = summary_of(arm(ON, [0.5, 0.5], kv_cache_bytes=123, weights_bytes=456))
    assert (case.kv_cache_bytes, case.weights_bytes) == (123, 456)


def test_energy_is_per_new_token_of_the_whole_batch() -> None:
    case = make_case(batch_size=4, max_new_tokens=50)
    samples = [
        timed_sample(make_task(case, i), 1.0, energy_j=joules)
        for i, joules in enumerate([100.0, 400.0, 200.0, None])
    ]
    found = summary_of(samples)
    assert found.energy_j_per_token == 1.0
    assert (found.energy_j_per_token_min, found.energy_j_per_token_max) == (0.5, 2.0)
    assert (found.samples, found.energy_samples) == (4, 3)


def powered(case: Case, joules: Sequence[float | None], method: str = "counter") -> list[Sample]:
    return [
        timed_sample(make_task(case, i), 1.0, energy_j=one, energy_method=method)
        for i, one in enumerate(joules)
    ]


def test_the_energy_ratio_is_estimated_within_rounds() -> None:
    """A board that warms up draws more with both strategies alike: the ratio stays."""
    off = [200.0, 260.0, 338.0, 439.0, 571.0, 742.0, 965.0]
    on = [100.0, 135.0, 165.0, 220.0, 290.0, 360.0, 490.0]
    case = summary_of([*powered(OFF, off), *powered(ON, on)])
    found = paired_ratio(off, on)
    assert (case.energy_ratio, case.energy_rounds) == (found.ratio, 7)
    assert (case.energy_ratio_ci95_low, case.energy_ratio_ci95_high) == (found.low, found.high)
    assert found.low is not None and 1.9 < found.low < case.energy_ratio < 2.1
    assert case.energy_method == "counter"
    uncached = summary_of([*powered(OFF, off), *powered(ON, on)], "off")
    assert (uncached.energy_ratio, uncached.energy_rounds) == (None, None)


@pytest.mark.parametrize("missing", [None, 0.0], ids=["not read", "stood still"])
def test_a_round_without_a_reading_is_no_round_of_the_energy_ratio(missing: float | None) -> None:
    case = summary_of([*powered(OFF, [200.0] * 7), *powered(ON, [missing, *[100.0] * 6])])
    assert (case.speedup_rounds, case.energy_rounds) == (7, 6)
    assert (case.energy_ratio_ci95_low, case.energy_ratio_ci95_high) == (2.0, 2.0)
    few = summary_of([*powered(OFF, [200.0] * 6), *powered(ON, [missing, *[100.0] * 5])])
    assert (few.energy_ratio, few.energy_ratio_ci95_low, few.energy_rounds) == (2.0, None, 5)


def test_without_a_shared_round_the_energy_ratio_is_that_of_the_medians() -> None:
    case = summary_of([*powered(OFF, [200.0, None]), *powered(ON, [None, 50.0])])
    assert (case.energy_ratio, case.energy_rounds, case.energy_ratio_ci95_low) == (4.0, 0, None)


def test_energy_that_was_read_in_different_ways_has_no_ratio() -> None:
    case = summary_of([*powered(OFF, [200.0] * 6, "board"), *powered(ON, [50.0] * 6, "package")])
    assert (case.energy_j_per_token, case.energy_method) == (0.5, "package")
    assert (case.energy_ratio, case.energy_rounds) == (None, None)


def test_energy_is_that_of_the_way_in_which_most_samples_were_read() -> None:
    samples = [*powered(ON, [900.0] * 2, "board"), *powered(ON, [50.0] * 3, "package")]
    samples = [dataclasses.replace(s, repeat=i, round=i) for i, s in enumerate(samples)]
    case = summary_of(samples)
    assert (case.energy_j_per_token, case.energy_method, case.energy_samples) == (
        0.5,
        "package",
        3,
    )


def test_what_has_no_energy_has_no_ratio() -> None:
    for on, off in (([None] * 6, [1.0] * 6), ([1.0] * 6, [None] * 6), ([0.0] * 6, [1.0] * 6)):
        case = summary_of([*powered(OFF, off), *powered(ON, on)])
        assert (case.energy_ratio, case.energy_rounds) == (None, None)


# Flags


@pytest.mark.parametrize(("count", "flags"), [(1, "undersampled"), (5, "undersampled"), (6, None)])
def test_fewer_than_six_samples_are_flagged(count: int, flags: str | None) -> None:
    assert summary_of(arm(ON, [0.5] * count)).flags == flags


def test_flags_of_samples_are_counted(snapshot: object) -> None:
    flags = ["busy_cpu", None, "throttled busy_cpu", None, "busy_cpu", None]
    samples = [timed_sample(make_task(ON, i), 0.5, flags=f) for i, f in enumerate(flags)]
    assert summary_of(samples).flags == "busy_cpu:3 throttled:1"
    assert summary_of(samples[:3]).flags == snapshot


def test_flags_of_warmups_do_not_count() -> None:
    warmup = timed_sample(make_task(ON, phase="warmup"), 0.5, flags="busy_cpu")
    assert summary_of([warmup, *arm(ON, [0.5] * 6)]).flags is None


def test_a_cold_sample_is_left_out_and_shown() -> None:
    case = summary_of(arm(ON, [20.0, 6.5, 6.2, 6.4, 6.3, 6.6, 6.1], energy_j=100.0))
    assert (case.samples, case.cold_starts, case.cold_start_s) == (7, 1, 20.0)
    assert (case.total_s_median, case.total_s_max) == (pytest.approx(6.35), 6.6)
    assert case.flags == "cold_start:1"


def test_a_case_with_too_few_warm_samples_is_undersampled() -> None:
    case = summary_of(arm(ON, [20.0, 6.5, 6.2, 6.4, 6.3, 6.6]))
    assert (case.flags, case.trend) == ("undersampled cold_start:1", None)


def test_each_process_may_have_a_cold_sample() -> None:
    samples = [
        dataclasses.replace(sample, worker=int(sample.repeat > 2), session=int(sample.repeat > 5))
        for sample in arm(ON, [9.0, 1.0, 1.1, 8.0, 1.0, 1.1, 7.0, 1.0, 1.1])
    ]
    case = summary_of(samples)
    assert (case.cold_starts, case.cold_start_s, case.total_s_max) == (3, 8.0, 1.1)


def test_what_was_tried_again_is_no_cold_sample() -> None:
    first = [timed_sample(make_task(ON, 0), 9.0), *arm(ON, [9.0, 1.0, 1.1, 1.0])[1:]]
    again = dataclasses.replace(timed_sample(make_task(ON, 0, attempt=1), 1.0), worker=1)
    assert summary_of(first).cold_starts == 1
    assert summary_of([*first, again]).cold_starts == 0


@pytest.mark.parametrize(
    ("times", "flags"),
    [
        ([5.0, 5.1, 5.0, 20.0, 5.1, 5.0], "outlier:1"),
        ([5.0, 20.0, 5.0, 20.0, 5.1, 5.0, 5.1, 5.0], "outlier:2"),
        # The first sample of a process with too few later ones to be called cold.
        ([20.0, 5.0], "undersampled"),
        ([5.0, 5.1, 5.0, 5.2, 5.1, 5.0], None),
    ],
)
def test_a_sample_far_from_the_others_is_flagged_and_counts(
    times: list[float], flags: str | None
) -> None:
    case = summary_of(arm(ON, times))
    assert case.flags == flags
    assert (case.cold_starts, case.total_s_max) == (0, max(times))


@pytest.mark.parametrize(
    ("times", "flags"),
    [
        ([5.93, 6.65, 7.5, 7.9, 8.3, 8.8], "trend"),
        ([8.8, 8.3, 7.9, 7.5, 6.65, 5.93], "trend"),
        # Steady, but by less than 5 %.
        ([1.0, 1.005, 1.01, 1.015, 1.02, 1.03], None),
        # One pair out of order: of six that may be chance (p = 0.017).
        ([1.0, 1.2, 1.1, 1.3, 1.4, 1.5], None),
        # With fewer than six, it always may be.
        ([5.93, 6.65, 7.5, 8.0, 9.0], "undersampled"),
    ],
)
def test_times_that_rise_or_fall_are_flagged(times: list[float], flags: str | None) -> None:
    case = summary_of(arm(ON, times))
    assert case.flags == flags
    if len(times) == 6:
        assert case.trend is not None
        assert (case.trend > 0) == (times[-1] > times[0])
    else:
        assert case.trend is None


# Failures


def test_a_case_that_failed_has_a_status_a_reason_and_no_time(snapshot: object) -> None:
    failed = sample_of(make_task(ON), status="oom", stage="decode", error="No memory left.")
    case = summary_of([timed_sample(make_task(ON, phase="warmup"), 0.5), failed])
    assert (case.status, case.samples) == ("oom", 0)
    assert case.error == snapshot
    timed = {f.name for f in dataclasses.fields(case) if f.name.startswith(("total_s", "speedup"))}
    assert {getattr(case, name) for name in timed} == {None}
    assert case.flags is None


def test_a_case_that_failed_later_keeps_the_time_of_what_went_well() -> None:
    failed = sample_of(make_task(ON, 2), status="crashed", stage="decode", error="Boom.")
    case = summary_of([*arm(ON, [0.2, 0.4]), failed])
    assert (case.status, case.samples, case.total_s_median) == (
        "crashed",
        2,
        pytest.approx(0.3),
    )


def test_a_mismatch_is_not_a_fast_sample() -> None:
    short = timed_sample(make_task(ON, 2), 0.001, status="mismatch", error="24 of 60 tokens.")
    case = summary_of([*arm(ON, [0.2, 0.4]), short])
    assert (case.samples, case.total_s_min, case.status) == (2, 0.2, "mismatch")


# Both strategies


def test_the_speed_up_is_off_over_the_strategy() -> None:
    off, on = [4.0, 6.0, 5.0, 9.0, 1.0, 3.0], [2.0, 1.0, 3.0, 2.5, 0.5, 1.0]
    case = summary_of([*arm(OFF, off), *arm(ON, on)])
    found = paired_ratio(off, on)
    assert (case.speedup, case.speedup_ci95_low, case.speedup_ci95_high) == (
        found.ratio,
        found.low,
        found.high,
    )
    # Not the ratio of the medians, which is 3: the middle one of 21 means, that of 2 and 3.6.
    assert case.speedup == pytest.approx((2 * 3.6) ** 0.5)
    assert (case.speedup_round_min, case.speedup_round_max) == (5 / 3, 6.0)


def test_a_drift_that_both_share_does_not_widen_the_interval() -> None:
    noise = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.03, 0.97, 1.01, 1.0]
    slower = [1.0] * 5 + [1.3] * 5
    drifting = [
        *arm(OFF, [2.2 * a * b for a, b in zip(noise, slower, strict=True)]),
        *arm(ON, [2.0 * a * b for a, b in zip(reversed(noise), slower, strict=True)]),
    ]
    at_rest = [*arm(OFF, [2.2 * a for a in noise]), *arm(ON, [2.0 * a for a in reversed(noise)])]
    there, here = summary_of(drifting), summary_of(at_rest)
    assert (there.speedup, there.speedup_ci95_low, there.speedup_ci95_high) == pytest.approx(
        (here.speedup, here.speedup_ci95_low, here.speedup_ci95_high)
    )
    assert there.speedup_ci95_low is not None and there.speedup_ci95_low > 1


def test_only_shared_rounds_are_compared() -> None:
    """A machine that is slower from round 6 on, and a strategy that stopped before: no claim."""
    case = summary_of([*arm(OFF, [1.0] * 5 + [1.1] * 25), *arm(ON, [1.0] * 5)])
    assert (case.speedup, case.speedup_rounds, case.speedup_ci95_low) == (1.0, 5, None)
    case = summary_of([*arm(OFF, [1.0] * 6 + [1.1] * 24), *arm(ON, [1.0] * 6)])
    assert (case.speedup, case.speedup_rounds) == (1.0, 6)
    assert (case.speedup_ci95_low, case.speedup_ci95_high) == (1.0, 1.0)


@pytest.mark.parametrize("cold", ["off", "dynamic", "both"])
def test_a_round_with_a_cold_sample_does_not_decide(cold: str) -> None:
    off = [9.0 if cold != "dynamic" else 2.0, *[2.0] * 6]
    on = [9.0 if cold != "off" else 1.0, *[1.0] * 6]
    case = summary_of([*arm(OFF, off), *arm(ON, on)])
    assert (case.speedup, case.speedup_rounds) == (2.0, 6)
    assert (case.speedup_ci95_low, case.speedup_ci95_high) == (2.0, 2.0)


def test_an_outlier_stays_in_the_interval() -> None:
    case = summary_of([*arm(OFF, [2.0, 2.0, 2.0, 8.0, 2.0, 2.0]), *arm(ON, [1.0] * 6)])
    assert (case.speedup_rounds, case.speedup_ci95_high) == (6, pytest.approx(8.0))


def test_a_round_that_two_processes_shared_is_no_round() -> None:
    off = arm(OFF, [4.0] * 8)
    on = [dataclasses.replace(s, worker=int(s.repeat > 5)) for s in arm(ON, [2.0] * 6 + [0.1] * 2)]
    case = summary_of([*off, *on])
    assert (case.speedup_rounds, case.speedup) == (6, 2.0)


def test_a_round_that_was_measured_again_is_compared_as_it_was_then() -> None:
    """The strategy was lost in round 1; the next worker repeated the whole round."""
    off = [*arm(OFF, [4.0] * 6), timed_sample(make_task(OFF, 1, attempt=1), 6.0, worker=1)]
    lost = sample_of(make_task(ON, 1), status="crashed", error="Killed.")
    on = [s for s in arm(ON, [2.0] * 6) if s.round != 1]
    again = timed_sample(make_task(ON, 1, attempt=1), 2.0, worker=1)
    case = summary_of([*off, *on, lost, again])
    assert (case.speedup_rounds, case.speedup_round_max) == (6, 3.0)


def test_the_baseline_has_no_speed_up_over_itself() -> None:
    samples = [*arm(OFF, [4.0] * 5), *arm(ON, [2.0] * 5)]
    case = summary_of(samples, "off")
    assert (case.speedup, case.speedup_round_min, case.same_output) == (None, None, None)


def test_too_few_samples_give_a_speed_up_without_an_interval() -> None:
    case = summary_of([*arm(OFF, [4.0] * 9), *arm(ON, [2.0] * 5)])
    assert (case.speedup, case.speedup_ci95_low, case.speedup_ci95_high) == (2.0, None, None)
    assert (case.speedup_round_min, case.speedup_round_max) == (2.0, 2.0)


def test_only_samples_of_one_round_are_compared_round_by_round() -> None:
    off = [timed_sample(make_task(OFF, 0, round=0), 8.0), *arm(OFF, [])]
    off.append(timed_sample(make_task(OFF, 1, round=2), 6.0))
    on = [timed_sample(make_task(ON, i, round=i), total) for i, total in enumerate([1.0, 2.0, 3.0])]
    case = summary_of([*off, *on])
    assert (case.speedup_round_min, case.speedup_round_max) == (2.0, 8.0)


def test_a_round_that_two_sessions_shared_is_no_round() -> None:
    """The halves of an interrupted round may be hours and a reboot apart."""
    off = arm(OFF, [4.0] * 5)
    on = [dataclasses.replace(s, session=int(s.repeat > 2)) for s in arm(ON, [2.0] * 3 + [0.1] * 2)]
    case = summary_of([*off, *on])
    assert (case.speedup_rounds, case.speedup_round_max) == (3, 2.0)


def test_arms_that_share_no_round_have_no_ratio_within_one() -> None:
    on = [timed_sample(make_task(ON, 0, round=7), 2.0)]
    case = summary_of([*arm(OFF, [4.0]), *on])
    assert (case.speedup, case.speedup_round_min, case.speedup_round_max) == (2.0, None, None)


def test_without_a_baseline_there_is_no_speed_up() -> None:
    case = summary_of(arm(ON, [2.0] * 5))
    assert (case.speedup, case.speedup_ci95_low, case.same_output) == (None, None, None)


def test_a_baseline_that_failed_is_none() -> None:
    failed = sample_of(make_task(OFF), status="oom", stage="decode", error="No memory left.")
    case = summary_of([failed, *arm(ON, [2.0] * 5)])
    assert (case.speedup, case.same_output, case.status) == (None, None, "ok")


@pytest.mark.parametrize(
    "other",
    [
        {"model": "b"},
        {"weights": "pretrained"},
        {"device": "cuda"},
        {"dtype": "bfloat16"},
        {"attention": "eager"},
        {"batch_size": 2},
        {"prompt": Prompt.of_text("x")},
        {"max_new_tokens": 99},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_case_that_differs_in_more_than_the_cache_is_no_baseline(other: dict[str, Any]) -> None:
    samples = [*arm(make_case(cache="off", **other), [4.0] * 5), *arm(ON, [2.0] * 5)]
    assert summary_of(samples).speedup is None


@pytest.mark.parametrize(
    ("off", "on", "same"),
    [
        (["a", "a"], ["a", "a"], True),
        (["a", "a"], ["b", "b"], False),
        (["a", "a"], ["a", "b"], False),
        (["a", "b"], ["a", "a"], False),
        ([None, None], [None, None], None),
    ],
)
def test_outputs_are_the_same_if_all_samples_of_both_arms_agree(
    off: list[str | None], on: list[str | None], same: bool | None
) -> None:
    samples = [
        timed_sample(make_task(case, i), 1.0, output_sha256=digest)
        for case, digests in ((OFF, off), (ON, on))
        for i, digest in enumerate(digests)
    ]
    assert summary_of(samples).same_output is same


def test_the_output_of_a_short_warmup_does_not_count() -> None:
    warmup = timed_sample(make_task(ON, phase="warmup", new_tokens=16), 0.1, output_sha256="short")
    assert summary_of([warmup, *arm(OFF, [1.0]), *arm(ON, [1.0])]).same_output is True


# Memory

NVML = {"nvml_before_bytes": 1000, "nvml_peak_bytes": 1900}
TORCH = {"torch_before_bytes": 100, "torch_peak_allocated_bytes": 700}
RSS = {"rss_before_bytes": 10, "rss_peak_bytes": 30}
NONE = {"rss_before_bytes": None, "rss_peak_bytes": None}


@pytest.mark.parametrize(
    ("known", "peak", "over"),
    [
        (NVML | TORCH | RSS, 1900, 600),
        (NVML, 1900, 900),
        (TORCH | RSS, 700, 600),
        (RSS, 30, 20),
        (NONE, None, None),
        (NVML | {"nvml_before_bytes": None}, 1900, None),
        (RSS | {"rss_before_bytes": 0}, 30, 30),
    ],
)
def test_memory_is_nvml_before_torch_before_the_resident_set(
    known: dict[str, int | None], peak: int | None, over: int | None
) -> None:
    case = summary_of([timed_sample(make_task(ON), 1.0, **known)])
    assert (case.memory_peak_bytes, case.memory_over_base_bytes) == (peak, over)


def test_memory_is_the_median_of_the_samples() -> None:
    samples = [
        timed_sample(make_task(ON, i), 1.0, rss_before_bytes=before, rss_peak_bytes=peak)
        for i, (before, peak) in enumerate([(10, 100), (90, 120), (10, 20)])
    ]
    case = summary_of(samples)
    assert (case.memory_peak_bytes, case.memory_over_base_bytes) == (100, 30)


def test_memory_comes_from_the_untimed_pass_where_there_is_one() -> None:
    memory = timed_sample(make_task(ON, phase="memory"), 9.0, **RSS)
    timed = [timed_sample(make_task(ON, i), 1.0, **NONE) for i in range(3)]
    warmup = timed_sample(make_task(ON, phase="warmup"), 9.0, rss_peak_bytes=999)
    case = summary_of([warmup, memory, *timed])
    assert (case.memory_peak_bytes, case.memory_over_base_bytes, case.samples) == (30, 20, 3)


# Order and tables


def test_cases_are_read_by_size_with_the_baseline_first() -> None:
    cases = [
        make_case(cache=cache, batch_size=batch, max_new_tokens=tokens)
        for cache, batch, tokens in [
            ("dynamic", 2, 10),
            ("dynamic", 1, 100),
            ("off", 1, 100),
            ("off", 2, 10),
            ("dynamic", 1, 20),
        ]
    ]
    samples = [sample for case in cases for sample in arm(case, [1.0])]
    assert [(c.batch_size, c.max_new_tokens, c.cache) for c in summarize_cases(samples)] == [
        (1, 20, "dynamic"),
        (1, 100, "off"),
        (1, 100, "dynamic"),
        (2, 10, "off"),
        (2, 10, "dynamic"),
    ]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", ["b", "a"]),
        ("device", ["cuda", "cpu"]),
        ("dtype", ["float32", "bfloat16"]),
        ("attention", ["sdpa", "eager"]),
    ],
)
def test_all_but_sizes_are_in_the_order_of_the_plan(field: str, values: list[str]) -> None:
    """Loaded models run in the order of the plan, so they are first seen in that order."""
    samples = [s for value in values for s in arm(make_case(**{field: value}), [1.0])]
    assert [getattr(case, field) for case in summarize_cases(samples)] == values


def test_the_order_of_the_samples_within_a_model_does_not_matter() -> None:
    cases = [make_case(cache=c, max_new_tokens=n) for n in (30, 10, 20) for c in ("dynamic", "off")]
    samples = [sample for case in cases for sample in arm(case, [1.0, 2.0])]
    assert summarize_cases(reversed(samples)) == summarize_cases(samples)


def test_no_samples_make_no_summary() -> None:
    assert summarize_cases([]) == ()


def test_the_table_has_a_row_per_case_and_a_column_per_field(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", [*arm(OFF, [4.0] * 5), *arm(ON, [2.0] * 5)]))
    table = summarize(run)
    assert list(table.columns) == [f.name for f in dataclasses.fields(CaseSummary)]
    assert list(table["cache"]) == ["off", "dynamic"]
    assert list(table["total_s_median"]) == [4.0, 2.0]
    assert table["speedup"].isna().tolist() == [True, False]


def test_the_table_of_an_empty_run_has_all_columns(tmp_path: Path) -> None:
    table = summarize(load_run(write_run(tmp_path / "run", [])))
    assert (len(table), len(table.columns)) == (0, len(dataclasses.fields(CaseSummary)))
