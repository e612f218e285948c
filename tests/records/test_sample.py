"""Tests of kvbench/records/sample.py."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kvbench.plan.case import Prompt, Task
from kvbench.records.columns import columns_of
from kvbench.records.sample import STATUSES, Sample, latest, sample_of, utc_now, with_flag
from tests.fakes import LEGACY, make_case, make_task

REQUIRED = {
    "sample_id",
    "case_id",
    "phase",
    "round",
    "repeat",
    "started_at",
    "status",
    "model",
    "weights",
    "device",
    "dtype",
    "attention",
    "cache",
    "use_cache",
    "batch_size",
    "prompt",
    "max_new_tokens",
}
GIVEN: dict[str, Any] = {"method": "each", "attempt": 0, "session": 0, "worker": 0, **LEGACY}
"""Columns that are never null although the task need not state them."""


def test_what_the_task_says_is_filled_in(snapshot: object) -> None:
    case = make_case(cache="off", batch_size=4, max_new_tokens=50)
    sample = sample_of(make_task(case, repeat=3, round=5))
    assert sample.sample_id == f"{case.id}-s003"
    assert sample.case_id == case.id
    assert (sample.phase, sample.round, sample.repeat) == ("measure", 5, 3)
    assert (sample.model, sample.weights, sample.device) == ("gpt2", "random", "cpu")
    assert (sample.dtype, sample.attention) == ("float32", "sdpa")
    assert (sample.cache, sample.batch_size, sample.max_new_tokens) == ("off", 4, 50)
    assert sample.prompt == snapshot
    assert (sample.status, sample.method) == ("ok", "each")


@pytest.mark.parametrize(("cache", "flag"), [("off", False), ("dynamic", True)])
def test_the_flag_follows_from_the_strategy(cache: str, flag: bool) -> None:
    assert sample_of(make_task(make_case(cache=cache))).use_cache is flag


def test_a_prompt_of_tokens_knows_its_length_before_anything_runs() -> None:
    assert sample_of(make_task(make_case(prompt=Prompt.of_tokens(9)))).prompt_tokens == 9
    assert sample_of(make_task()).prompt_tokens is None


def test_what_is_not_known_is_null() -> None:
    sample = sample_of(make_task(), status="crashed", stage="decode", error="Boom.")
    assert (sample.status, sample.stage, sample.error) == ("crashed", "decode", "Boom.")
    measured = {f.name for f in dataclasses.fields(Sample)} - REQUIRED
    measured -= {"stage", "error", *GIVEN}
    assert {name: getattr(sample, name) for name in measured} == dict.fromkeys(measured)


def test_what_is_given_goes_over_what_the_task_says() -> None:
    assert sample_of(make_task(), prompt_tokens=6, started_at="then").started_at == "then"


def test_a_field_that_is_no_column_is_refused() -> None:
    with pytest.raises(TypeError, match="totals"):
        sample_of(make_task(), totals=1.0)


def test_only_what_could_not_be_known_is_optional() -> None:
    assert {c.name for c in columns_of(Sample) if not c.optional} == REQUIRED | GIVEN.keys()
    plain = sample_of(make_task())
    assert {name: getattr(plain, name) for name in GIVEN} == GIVEN


def test_the_statuses_are_those_of_the_design() -> None:
    assert set(STATUSES) == {
        "ok",
        "oom",
        "skipped_oom",
        "timeout",
        "crashed",
        "unsupported",
        "mismatch",
    }


# Attempts


@pytest.mark.parametrize(
    ("phase", "repeat", "attempt", "tail"),
    [
        ("measure", 0, 0, "-s000"),
        ("measure", 0, 1, "-s000-2"),
        ("measure", 7, 2, "-s007-3"),
        ("warmup", 0, 1, "-w000-2"),
        ("memory", 0, 4, "-m000-5"),
    ],
)
def test_a_further_attempt_has_an_id_of_its_own(
    phase: Any, repeat: int, attempt: int, tail: str
) -> None:
    sample = sample_of(make_task(repeat=repeat, phase=phase, attempt=attempt))
    assert sample.sample_id == make_case().id + tail
    assert (sample.repeat, sample.attempt) == (repeat, attempt)


def test_of_several_attempts_the_last_counts_in_the_place_of_the_first() -> None:
    first, other, again, third = (
        sample_of(make_task(repeat=0), status="crashed"),
        sample_of(make_task(repeat=1)),
        sample_of(make_task(repeat=0, attempt=1), status="timeout"),
        sample_of(make_task(repeat=0, attempt=2)),
    )
    assert latest([first, other, again, third]) == (third, other)
    assert latest([first, other, again]) == (again, other)
    assert latest(iter([first])) == (first,)
    assert latest([]) == ()


@pytest.mark.parametrize(
    "other",
    [
        make_task(make_case(cache="off")),
        make_task(repeat=1),
        make_task(phase="warmup"),
        make_task(phase="memory"),
    ],
    ids=["case", "repeat", "warm-up", "memory"],
)
def test_other_samples_are_no_further_attempts(other: Task) -> None:
    samples = (sample_of(make_task()), sample_of(other))
    assert latest(samples) == samples


@pytest.mark.parametrize(
    ("before", "after"), [(None, "new"), ("old", "old new"), ("one two", "one two new")]
)
def test_a_flag_is_added_to_those_that_are_there(before: str | None, after: str) -> None:
    sample = sample_of(make_task(), flags=before, total_s=0.5)
    flagged = with_flag(sample, "new")
    assert flagged == dataclasses.replace(sample, flags=after)
    assert sample.flags == before


def test_a_sample_is_plain_data() -> None:
    sample = sample_of(make_task(), total_s=0.5)
    assert Sample(**json.loads(json.dumps(dataclasses.asdict(sample)))) == sample


def test_the_time_is_in_utc_to_the_millisecond() -> None:
    then = datetime.fromisoformat(utc_now())
    assert then.utcoffset() == timedelta(0)
    assert then.microsecond % 1000 == 0
    assert utc_now() <= (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
