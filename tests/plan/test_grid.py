"""Tests of kvbench/plan/grid.py: which cases a conversation has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvbench.errors import UserError
from kvbench.methods import groups_of, jobs_of, with_fallback
from kvbench.plan.case import Case
from kvbench.plan.plan import Plan, with_legacy
from tests.tiny import task


def cases(**keys: Any) -> tuple[Case, ...]:
    return Plan.parse({"device": "cpu", "workload": "chat:turns=2:user=8:reply=4"} | keys).cases()


def test_a_cache_and_its_reuse_make_only_meaningful_pairs() -> None:
    found = cases(cache="off,dynamic,static")
    assert {(case.cache, case.reuse) for case in found} == {
        ("off", "none"),
        *(("dynamic", "turn"), ("dynamic", "conversation")),
        *(("static", "turn"), ("static", "conversation")),
    }
    assert [case.max_new_tokens for case in found] == [4] * 10
    # The history of the second turn: a message, a reply, and a message.
    assert {(case.turn, case.prompt.tokens) for case in found} == {(1, 8), (2, 20)}
    with pytest.raises(UserError) as caught:
        cases(cache="off", reuse="turn,conversation")
    assert caught.value.kind == "no_cases"


def test_all_turns_and_all_reuses_share_rounds_and_a_job_is_a_conversation() -> None:
    (group,) = groups_of(cases(cache="off,dynamic"))
    jobs = jobs_of([task(case) for case in reversed(group)])
    assert [[one.case.turn for one in job.tasks] for job in jobs] == [[1, 2]] * 3
    assert len({(job.task.case.cache, job.task.case.reuse) for job in jobs}) == 3


def test_lengths_prompts_and_reuse_belong_to_their_workload() -> None:
    keys = {"device": "cpu", "max_new_tokens": "5,9", "prompt_tokens": "3", "cache": "dynamic"}
    alone = Plan.parse(keys).cases()
    mixed = Plan.parse(keys | {"workload": "single,chat:turns=1:reply=4", "reuse": "turn"}).cases()
    assert mixed[:2] == alone
    assert [(case.prompt.label, case.max_new_tokens) for case in mixed[2:]] == [("user:64", 4)]


def test_a_run_that_predates_workloads_has_the_same_plan() -> None:
    now = Plan.parse({"device": "cpu"}).model_dump(mode="json")
    old = {key: value for key, value in now.items() if key not in ("workload", "reuse")}
    assert with_legacy(old) == now


def test_another_method_falls_back_to_each() -> None:
    found = with_fallback(cases(cache="off,dynamic", method="trace"))
    assert {case.method for case in found} == {"each"}


def write(path: Path, *conversations: object) -> str:
    path.write_text("\n".join(map(json.dumps, conversations)), encoding="utf-8")
    return str(path)


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def test_each_conversation_of_a_file_is_a_case_with_its_own_turns(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    write(path, talk("a", "b"), {"messages": talk("c")})
    keys = {"workload": f"chat:file={path}:reply=3", "cache": "dynamic", "reuse": "turn"}
    found = cases(**keys)
    assert [case.turn for case in found] == [1, 2, 1]
    first, second, other = (case.prompt.label for case in found)
    assert first == second != other
    assert first.startswith("file:talks.jsonl#")
    write(path, talk("a", "edited"), talk("c"))
    again = cases(**keys)
    assert again[0].id != found[0].id and again[2].id == found[2].id


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("{", "bad_conversation"),
        ('[{"role": "user"}]', "bad_conversation"),
        ('[{"role": "robot", "content": "x"}]', "bad_conversation"),
        ('[{"role": "system", "content": "x"}]', "bad_conversation"),
        ("\n", "prompt_empty"),
    ],
)
def test_a_file_of_anything_else_is_refused(
    tmp_path: Path, line: str, kind: str, snapshot: object
) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        cases(workload=f"chat:file={path}")
    assert caught.value.kind == kind
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(
    "name",
    [
        "chatt",
        "chat:turns=0",
        "chat:turns=10000000000",
        "chat:file=",
        "chat:file=x:user=3",
        "single:turns=3",
    ],
)
def test_a_workload_that_does_not_exist_is_refused(name: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        cases(workload=name)
    assert str(caught.value) == snapshot
