"""Tests of kvbench/run/resume.py: what has changed since a run started, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.plan.case import Case, Prompt
from kvbench.plan.plan import CONDUCT, Plan
from kvbench.records.changes import CaseChanges, Change
from kvbench.records.run import RunInfo
from kvbench.run.resume import cases_of, described, plan_changes
from tests.fakes import make_case, make_info

CPU = (make_case(),)


def plan_of(**keys: Any) -> dict[str, Any]:
    known = {"device": "cpu", "max_new_tokens": "10,20"}
    dumped: dict[str, Any] = Plan.parse(known | keys).model_dump(mode="json")
    return dumped


def info_of(plan: dict[str, Any]) -> RunInfo:
    return make_info(plan=plan, cases=described(Plan.parse(plan).cases()))


def changes(old: dict[str, Any], new: dict[str, Any]) -> Any:
    before, now = plan_of(**old), plan_of(**new)
    return plan_changes(info_of(before), now, Plan.parse(now).cases())


# Cases in run.json


TEXTS = st.text(max_size=20)
CASES = st.lists(
    st.builds(
        Case,
        model=TEXTS,
        weights=st.sampled_from(["random", "pretrained"]),
        device=TEXTS,
        dtype=TEXTS,
        attention=TEXTS,
        cache=TEXTS,
        batch_size=st.integers(),
        prompt=TEXTS.map(Prompt.of_text)
        | st.integers().map(Prompt.of_tokens)
        | st.builds(Prompt.of_file, TEXTS, st.lists(TEXTS)),
        max_new_tokens=st.integers(),
    ),
    max_size=4,
)


@settings(derandomize=True, database=None)
@given(CASES)
def test_cases_come_back_from_run_json_as_they_were(cases: list[Case]) -> None:
    entries = tuple(json.loads(json.dumps(described(cases))))
    assert cases_of(make_info(cases=entries)) == tuple(cases)
    # In the same process too, where tuples are still tuples.
    assert cases_of(make_info(cases=described(cases))) == tuple(cases)


def test_a_case_in_run_json_has_its_id() -> None:
    (entry,) = described(CPU)
    assert (entry["case_id"], entry["max_new_tokens"]) == (CPU[0].id, 100)


def test_reading_cases_leaves_the_info_as_it_is() -> None:
    info = make_info(cases=described(CPU))
    assert cases_of(info) == cases_of(info) == CPU


# The plan


def test_the_same_plan_has_not_changed() -> None:
    assert changes({}, {}) == []
    assert changes({"prompt": ["a", "b"]}, {"prompt": ["a", "b"]}) == []
    assert changes({"use_cache": "false"}, {"cache": "off"}) == []


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"seed": 1}, {"seed": 2}, Change("seed", "1", "2")),
        ({}, {"batch_size": "1-4*2"}, Change("batch_size", "1", "1,2,4")),
        ({"repeats": 3}, {}, Change("repeats", "3", "none")),
        ({"cache": "off"}, {"cache": "off,dynamic"}, Change("cache", "off", "off,dynamic")),
        ({}, {"prompt": "Hello"}, Change("prompt", "none", "Hello")),
        ({}, {"model": "t5"}, Change("model", "gpt2", "t5")),
        ({"trust_remote_code": True}, {}, Change("trust_remote_code", "True", "False")),
    ],
)
def test_a_key_that_changed_is_told_with_both_values(
    old: dict[str, Any], new: dict[str, Any], line: Change
) -> None:
    assert changes(old, new) == [line]


def test_all_that_changed_is_told() -> None:
    lines = changes({"seed": 1, "repeats": 3}, {"seed": 2, "repeats": 4})
    assert lines == [Change("repeats", "3", "4"), Change("seed", "1", "2")]


def test_a_long_value_is_cut() -> None:
    (line,) = changes({}, {"prompt": "x" * 1000})
    assert len(line.new) < 100
    assert line.new.endswith("...")


@pytest.mark.parametrize(
    "conduct",
    [
        {"case_timeout": 5},
        {"keep_going_after_oom": True},
        {"verify": False},
        {"case_timeout": 5, "keep_going_after_oom": True, "verify": False},
    ],
    ids=lambda conduct: "+".join(conduct),
)
def test_how_it_is_carried_out_may_change(conduct: dict[str, Any]) -> None:
    assert set(conduct) <= CONDUCT
    assert changes({}, conduct) == []
    assert changes(conduct, {}) == []


def test_every_key_but_those_of_conduct_matters() -> None:
    plan = plan_of()
    for key in set(plan) - CONDUCT:
        (line,) = plan_changes(info_of(plan), plan | {key: "another"}, Plan.parse(plan).cases())
        assert line.key == key


def test_an_edited_prompt_file_is_told_by_its_cases() -> None:
    # Or `auto` finds another device: the keys are the same.
    plan = plan_of()
    cases = Plan.parse(plan).cases()
    new = make_case(prompt=Prompt.of_tokens(3))
    assert plan_changes(info_of(plan), plan, [*cases[1:], new]) == [CaseChanges(new=1, gone=1)]
    assert plan_changes(info_of(plan), plan, cases[1:]) == [CaseChanges(new=0, gone=1)]


def test_the_order_of_cases_is_no_change() -> None:
    plan = plan_of()
    assert plan_changes(info_of(plan), plan, Plan.parse(plan).cases()[::-1]) == []


def test_a_key_of_a_later_version_is_told() -> None:
    plan = plan_of()
    cases = Plan.parse(plan).cases()
    info = make_info(plan=plan | {"colour": "red"}, cases=described(cases))
    assert plan_changes(info, plan, cases) == [Change("colour", "red", "none")]
