"""Tests of kvbench/records/finding.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvbench.plan.case import ModelKey
from kvbench.records.check import VERDICTS, Check, check_of
from kvbench.records.finding import findings, not_asked

KEY = ModelKey("gpt2", "random", "cpu", "float32", "sdpa")


def check(name: Any, verdict: Any, session: int = 0, cache: str = "dynamic", **key: str) -> Check:
    model = ModelKey(**{f: key.get(f, getattr(KEY, f)) for f in ModelKey.__slots__})
    detail = f"The {name} say {verdict}."
    return check_of(model, cache, name, verdict, detail, session=session)


def whole(*checks: Check) -> list[Check]:
    """Return the checks, followed by each strategy's last check in each session."""
    found = []
    for one in checks:
        found += [one, dataclasses.replace(one, check="leak", verdict="pass", detail="No leak.")]
    return found


def verdict_of(*checks: Check) -> str:
    (finding,) = findings(whole(*checks))
    return finding.verdict


@pytest.mark.parametrize("verdict", ["pass", "near_tie", "exempt"])
def test_checks_that_were_cut_off_prove_nothing(verdict: str) -> None:
    checks = [check("tokens", "pass"), check("logits", verdict)]
    assert findings(checks)[0].verdict == "not_finished"
    assert findings([*checks, check("logits", "fail")])[0].verdict == "fail"


def test_a_finding_says_of_what_it_is(snapshot: object) -> None:
    (finding,) = findings(whole(check("logits", "pass")))
    assert finding.subject == snapshot
    assert finding.verdict == "pass"
    assert finding.detail == snapshot


def test_without_checks_there_is_no_finding() -> None:
    assert findings([]) == ()


@pytest.mark.parametrize("verdict", VERDICTS)
def test_one_check_is_its_own_verdict(verdict: str) -> None:
    # Older tables have one word for three: for a completed check it states the least.
    expected = "inconclusive" if verdict == "skipped" else verdict
    assert verdict_of(check("logits", verdict)) == expected


@pytest.mark.parametrize("name", ["tokens", "shape", "leak"])
def test_one_failed_check_is_a_failure_whatever_the_logits_say(name: str, snapshot: object) -> None:
    checks = [check("logits", "pass"), check(name, "fail"), check("tokens", "pass")]
    assert verdict_of(*checks) == "fail"
    assert findings(checks)[0].detail == snapshot


def test_all_that_failed_is_told(snapshot: object) -> None:
    (finding,) = findings([check("logits", "fail"), check("shape", "pass"), check("leak", "fail")])
    assert finding.detail == snapshot


@pytest.mark.parametrize("verdict", ["near_tie", "exempt"])
def test_what_did_not_fail_does_not_unsay_the_proof(verdict: str, snapshot: object) -> None:
    checks = [check("tokens", verdict), check("logits", "pass"), check("leak", "pass")]
    assert verdict_of(*checks) == "pass"
    assert findings(checks)[0].detail == snapshot


UNDECIDED = ["inconclusive", "not_asked", "skipped"]


@pytest.mark.parametrize("verdict", UNDECIDED)
@pytest.mark.parametrize("name", ["tokens", "logits"])
def test_a_check_of_the_work_that_was_not_made_has_not_passed(
    name: str, verdict: str, snapshot: object
) -> None:
    """It counts for its batch, whatever the result of another: any() once let one cover for all."""
    checks = [
        dataclasses.replace(check(name, verdict), batch_size=1),
        dataclasses.replace(check(name, "pass"), batch_size=4),
        check("logits", "pass"),
        check("shape", "pass"),
    ]
    (finding,) = findings(whole(*checks))
    assert finding.verdict == "inconclusive"
    assert finding.detail == snapshot


@pytest.mark.parametrize("verdict", UNDECIDED)
@pytest.mark.parametrize("name", ["shape", "leak"])
def test_what_is_not_known_of_the_cache_itself_is_told_next_to_the_proof(
    name: str, verdict: str, snapshot: object
) -> None:
    checks = [check("logits", "pass"), check(name, verdict), check("leak", "pass")]
    (finding,) = findings(checks)
    assert finding.verdict == "pass"
    assert finding.detail == snapshot


def test_a_lossy_strategy_without_a_verdict_is_not_exempt() -> None:
    assert verdict_of(check("logits", "exempt"), check("logits", "inconclusive")) == "inconclusive"


def test_without_any_logits_nothing_is_passed() -> None:
    assert verdict_of(check("tokens", "pass"), check("shape", "pass")) == "inconclusive"


def test_the_strategies_that_nobody_checked_are_named() -> None:
    (found,) = findings(whole(check("logits", "pass")))
    case = {name: getattr(found, name) for name in ("model", "weights", "device", "dtype")}
    case |= {"attention": "sdpa", "cache": "dynamic"}
    cases = [case, case | {"cache": "off"}, case | {"model": "t5"}, case | {"model": "t5"}]
    (other,) = not_asked(cases, [found])
    assert (other.model, other.cache, other.verdict) == ("t5", "dynamic", "not_asked")


def test_without_the_proof_nothing_is_passed() -> None:
    checks = [check("logits", "inconclusive"), check("tokens", "pass"), check("shape", "pass")]
    assert verdict_of(*checks) == "inconclusive"


def test_a_near_tie_without_the_proof_is_told() -> None:
    checks = [check("logits", "inconclusive"), check("tokens", "near_tie")]
    assert verdict_of(*checks) == "near_tie"


def test_a_lossy_strategy_is_exempt() -> None:
    assert verdict_of(check("logits", "exempt"), check("shape", "pass")) == "exempt"


@pytest.mark.parametrize(
    "other",
    [
        {"model": "t5"},
        {"weights": "pretrained"},
        {"device": "cuda"},
        {"dtype": "bfloat16"},
        {"attention": "eager"},
        {"cache": "static"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_each_model_and_strategy_has_a_finding_of_its_own(other: dict[str, str]) -> None:
    both = findings(whole(check("logits", "fail"), check("logits", "pass", **other)))
    assert [finding.verdict for finding in both] == ["fail", "pass"]


def test_of_several_sessions_the_latest_counts_whole() -> None:
    first = [check("logits", "pass"), check("shape", "fail")]
    second = [check("logits", "pass", 2), check("tokens", "near_tie", 2)]
    assert verdict_of(*first) == "fail"
    assert verdict_of(*first, *second) == "pass"
    assert verdict_of(*first, check("logits", "not_finished", 2)) == "not_finished"


def test_another_strategy_of_a_later_session_does_not_replace_the_first() -> None:
    both = findings(whole(check("logits", "fail"), check("logits", "pass", 1, cache="static")))
    assert [(finding.cache, finding.verdict) for finding in both] == [
        ("dynamic", "fail"),
        ("static", "pass"),
    ]


# How far the check reached


def sized(batch: int, tokens: int, verdict: Any = "pass", **fields: Any) -> Check:
    known = {"batch_size": batch, "new_tokens": tokens} | fields
    return dataclasses.replace(check("logits", verdict), **known)


def reach_of(*checks: Check) -> tuple[tuple[int, int], ...]:
    (finding,) = findings(whole(*checks))
    return finding.reach


def test_the_reach_is_what_passed_and_is_not_covered() -> None:
    assert reach_of(sized(1, 32), sized(4, 8)) == ((1, 32), (4, 8))
    assert reach_of(sized(1, 32), sized(4, 8), sized(4, 100)) == ((4, 100),)
    assert reach_of(sized(1, 32), sized(4, 8), sized(1, 100)) == ((1, 100), (4, 8))
    assert reach_of(sized(1, 32), sized(4, 100, "inconclusive")) == ((1, 32),)
    assert reach_of(sized(1, 32), sized(4, 8, checked_dtype="bfloat16")) == ((1, 32),)
    assert reach_of(check("logits", "pass")) == ()


# Samples with other tokens


def test_samples_with_other_tokens_make_a_failure_of_a_strategy_that_had_passed(
    snapshot: object,
) -> None:
    (finding,) = findings([*whole(check("logits", "pass")), check("output", "fail")])
    assert finding.verdict == "fail"
    assert finding.detail == snapshot


def test_a_tie_in_the_samples_is_told_and_does_not_unsay_the_proof(snapshot: object) -> None:
    (finding,) = findings([*whole(check("logits", "pass")), check("output", "near_tie")])
    assert finding.verdict == "pass"
    assert finding.detail == snapshot


def test_samples_with_other_tokens_that_nothing_explains_are_not_verified() -> None:
    (finding,) = findings([*whole(check("logits", "pass")), check("output", "inconclusive")])
    assert finding.verdict == "inconclusive"


def test_an_output_check_of_a_later_session_leaves_the_others_in_place() -> None:
    first = whole(check("logits", "pass"))
    assert findings([*first, check("output", "near_tie", 1)])[0].verdict == "pass"
    assert findings([*first, check("output", "fail", 1)])[0].verdict == "fail"
    # Verified again, the earlier samples still have their tokens.
    again = whole(check("logits", "pass", 2))
    assert findings([*first, check("output", "fail", 1), *again])[0].verdict == "fail"
