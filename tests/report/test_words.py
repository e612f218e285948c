"""Tests of kvbench/report/words.py."""

from __future__ import annotations

from typing import Any

import pytest

from kvbench.records.check import VERDICTS
from kvbench.report.words import answers, pairs, proof, proofs, speedup_interval
from tests.fakes import make_finding, make_info, make_summary


def on(**fields: Any) -> Any:
    known: dict[str, Any] = {
        "speedup": 2.0,
        "speedup_ci95_low": 1.9,
        "speedup_ci95_high": 2.1,
        "speedup_round_min": 1.5,
        "speedup_round_max": 2.5,
    }
    return make_summary(**(known | fields))


def off(**fields: Any) -> Any:
    return make_summary(cache="off", **fields)


def test_each_cached_case_stands_with_its_partner() -> None:
    cases = [off(max_new_tokens=10), on(max_new_tokens=10), off(), on()]
    assert pairs(cases) == [(cases[0], cases[1]), (cases[2], cases[3])]


def test_a_case_without_a_partner_stands_alone() -> None:
    lonely_on, lonely_off = on(batch_size=2), off(batch_size=4)
    assert pairs([lonely_off, lonely_on]) == [(None, lonely_on), (None, lonely_off)]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "b"},
        {"weights": "pretrained"},
        {"device": "cuda"},
        {"dtype": "float16"},
        {"attention": "eager"},
        {"batch_size": 2},
        {"prompt": "tokens:6"},
        {"max_new_tokens": 99},
    ],
    ids=lambda other: next(iter(other)),
)
def test_partners_differ_in_the_cache_alone(other: dict[str, Any]) -> None:
    assert (None, on()) in pairs([off(**other), on()])


def test_one_uncached_case_is_the_partner_of_every_strategy() -> None:
    base, first, second = off(), on(), on(cache="static")
    assert pairs([base, first, second]) == [(base, first), (base, second)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, (1.9, 2.1)), ({"speedup_ci95_low": None, "speedup_ci95_high": None}, None)],
)
def test_the_range_of_few_rounds_is_no_interval(
    fields: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    assert speedup_interval(on(**fields)) == expected


def test_the_answer_is_a_sentence_about_time_speed_up_and_memory(snapshot: object) -> None:
    cases = [off(total_s_median=2.0), on(total_s_median=0.85, kv_cache_bytes=15 << 19)]
    assert answers(cases) == snapshot


@pytest.mark.parametrize(
    "rounds",
    [None, 0, 1, 5],
)
def test_few_rounds_carry_no_claim(rounds: int | None, snapshot: object) -> None:
    few = on(speedup_ci95_low=None, speedup_ci95_high=None, speedup_rounds=rounds)
    assert answers([off(), few]) == snapshot


@pytest.mark.parametrize(("low", "high"), [(0.8, 1.3), (2.0, 3.2), (0.2, 0.4)])
def test_rounds_that_disagree_by_half_carry_no_claim(
    low: float, high: float, snapshot: object
) -> None:
    (answer,) = answers([off(), on(speedup=1.1, speedup_ci95_low=low, speedup_ci95_high=high)])
    assert answer == snapshot


def test_a_strategy_that_does_other_work_carries_no_claim(snapshot: object) -> None:
    (answer,) = answers([off(), on(flags="busy_cpu:1 verify_failed:6")])
    assert answer == snapshot


def test_what_the_times_show_follows_the_answer(snapshot: object) -> None:
    found = {"cold_starts": 1, "cold_start_s": 9.0, "outliers": 2, "trend": 0.345}
    base = off(flags="cold_start:1 outlier:2 trend", **found)
    slowing = on(flags="trend", trend=-0.2, outliers=0)
    (answer,) = answers([base, slowing])
    assert answer == snapshot


def test_a_change_that_may_be_chance_is_no_trend() -> None:
    assert answers([off(trend=0.3), on(trend=0.4)]) == answers([off(), on()])


def test_an_interval_of_no_width_is_not_one_round() -> None:
    steady = on(speedup_ci95_low=2.0, speedup_ci95_high=2.0, samples=10)
    assert "one round" not in answers([off(), steady])[0]


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.3), (1.0, 1.2), (0.9, 1.0)])
def test_an_interval_that_holds_one_is_no_clear_difference(
    low: float, high: float, snapshot: object
) -> None:
    unclear = on(speedup=1.1, speedup_ci95_low=low, speedup_ci95_high=high)
    (answer,) = answers([off(), unclear])
    assert answer == snapshot


def test_a_cache_that_costs_time_is_called_slower(snapshot: object) -> None:
    slower = on(speedup=0.5, speedup_ci95_low=0.45, speedup_ci95_high=0.55)
    assert answers([off(), slower])[0] == snapshot


def test_a_batch_is_told(snapshot: object) -> None:
    (answer,) = answers([off(batch_size=8), on(batch_size=8)])
    assert answer == snapshot


def test_another_strategy_is_told_by_its_name(snapshot: object) -> None:
    assert answers([off(), on(cache="static")])[0] == snapshot


def test_no_cache_size_is_no_clause() -> None:
    assert "MiB" not in answers([off(), on(kv_cache_bytes=None)])[0]


def test_it_is_about_the_longest_measured_pair() -> None:
    cases = [c for n in (10, 200, 100) for c in (off(max_new_tokens=n), on(max_new_tokens=n))]
    assert len(answers(cases)) == 1
    assert "200 new tokens" in answers(cases)[0]


def test_a_longer_length_without_a_speed_up_does_not_answer() -> None:
    failed = on(max_new_tokens=200, speedup=None, total_s_median=None, status="oom")
    (answer,) = answers([off(), on(), off(max_new_tokens=200), failed])
    assert "100 new tokens" in answer


def test_there_is_a_sentence_per_model_device_and_strategy() -> None:
    cases = [
        make(model=model, device=device)
        for model in ("a", "b")
        for device in ("cpu", "cuda")
        for make in (off, on)
    ]
    assert [answer.split(",")[0] for answer in answers(cases)] == [
        "a on cpu",
        "a on cuda",
        "b on cpu",
        "b on cuda",
    ]


def test_without_a_pair_there_is_no_answer() -> None:
    assert answers([off(), on(batch_size=2, speedup=None)]) == []
    assert answers([]) == []


# Is it the same work?


@pytest.mark.parametrize(
    "verdict",
    ["pass", "near_tie", "exempt", "inconclusive", "not_finished", "not_asked", "skipped", "fail"],
)
def test_a_proof_says_what_was_found_of_what_and_why(verdict: Any, snapshot: object) -> None:
    sentence = proof(make_finding(verdict=verdict, detail="RMS 2e-06."))
    assert sentence == snapshot


def test_a_proof_says_how_far_it_goes(snapshot: object) -> None:
    far = proof(make_finding(detail="RMS 2e-06.", reach=((4, 100),)))
    assert far == snapshot
    two = proof(make_finding(detail="RMS 2e-06.", reach=((1, 32), (4, 8))))
    assert two == snapshot
    assert "Checked" not in proof(make_finding(verdict="fail", reach=((4, 100),)))


def test_every_verdict_has_words_of_its_own() -> None:
    said = {proof(make_finding(verdict=verdict)) for verdict in VERDICTS}
    assert len(said) == len(VERDICTS)


def test_there_is_a_proof_for_each_model_and_strategy() -> None:
    found = (make_finding(), make_finding(model="t5", verdict="fail"))
    assert proofs(make_info(findings=found)) == [proof(finding) for finding in found]


def test_a_run_that_was_not_verified_says_so(snapshot: object) -> None:
    (said,) = proofs(make_info(plan={"verify": False}))
    assert said == snapshot


def test_what_was_found_goes_over_what_was_planned() -> None:
    # Verified at first, and resumed with --no-verify.
    info = make_info(plan={"verify": False}, findings=(make_finding(),))
    assert proofs(info) == [proof(make_finding())]


def test_what_was_not_verified_is_named_next_to_what_was(snapshot: object) -> None:
    case = {name: getattr(make_finding(), name) for name in ("weights", "device", "dtype")}
    case |= {"model": "t5", "attention": "sdpa", "cache": "dynamic"}
    info = make_info(plan={"verify": False}, findings=(make_finding(),), cases=(case,))
    assert proofs(info) == snapshot


@pytest.mark.parametrize("plan", [{}, {"verify": True}])
def test_where_nothing_was_found_nothing_is_said(plan: dict[str, Any]) -> None:
    # A run without a cached strategy, or one that was stopped before it.
    assert proofs(make_info(plan=plan)) == []


# Energy


def with_energy(ratio: float, low: float | None, high: float | None, **fields: Any) -> str:
    """Return the end of the answer about a case with this energy ratio."""
    energy = {
        "energy_ratio": ratio,
        "energy_ratio_ci95_low": low,
        "energy_ratio_ci95_high": high,
        "energy_rounds": 7,
    }
    (answer,) = answers([off(), on(**(energy | fields))])
    return answer


@pytest.mark.parametrize(
    ("ratio", "low", "high"),
    [(2.6, 2.4, 2.8), (0.8, 0.75, 0.9), (1.04, 0.8, 1.1), (2.0, 1.25, 2.5), (2.0, None, None)],
    ids=["less", "more", "unclear", "disagree", "too few"],
)
def test_energy_is_claimed_only_where_its_interval_carries_it(
    ratio: float, low: float | None, high: float | None, snapshot: object
) -> None:
    assert with_energy(ratio, low, high) == snapshot


def test_energy_may_be_clear_where_time_is_not(snapshot: object) -> None:
    assert with_energy(2.6, 2.4, 2.8, speedup_ci95_low=0.9, speedup_ci95_high=1.2) == snapshot
    assert with_energy(2.6, 2.4, 2.8, speedup_ci95_low=0.9, speedup_ci95_high=2.2) == snapshot


def test_without_energy_nothing_is_said_of_it() -> None:
    (answer,) = answers([off(energy_j_per_token=2.0), on()])
    assert "energy" not in answer


def test_the_few_rounds_that_carry_no_claim_say_it_of_both(snapshot: object) -> None:
    few = with_energy(2.6, None, None, speedup_ci95_low=None, speedup_ci95_high=None)
    assert few == snapshot
