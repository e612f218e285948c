"""Tests of kvbench/records/sample.py."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest

from kvbench.case import Prompt
from kvbench.records.columns import columns_of
from kvbench.records.sample import STATUSES, Sample, sample_of, utc_now
from tests.fakes import make_case, make_task

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


def test_what_the_task_says_is_filled_in() -> None:
    case = make_case(cache="off", batch_size=4, max_new_tokens=50)
    sample = sample_of(make_task(case, repeat=3, round=5))
    assert sample.sample_id == f"{case.id}-s003"
    assert sample.case_id == case.id
    assert (sample.phase, sample.round, sample.repeat) == ("measure", 5, 3)
    assert (sample.model, sample.weights, sample.device) == ("gpt2", "random", "cpu")
    assert (sample.dtype, sample.attention) == ("float32", "sdpa")
    assert (sample.cache, sample.batch_size, sample.max_new_tokens) == ("off", 4, 50)
    assert sample.prompt == "text:What is KV caching?"
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
    measured -= {"method", "stage", "error"}
    assert {name: getattr(sample, name) for name in measured} == dict.fromkeys(measured)


def test_what_is_given_goes_over_what_the_task_says() -> None:
    assert sample_of(make_task(), prompt_tokens=6, started_at="then").started_at == "then"


def test_a_field_that_is_no_column_is_refused() -> None:
    with pytest.raises(TypeError, match="totals"):
        sample_of(make_task(), totals=1.0)


def test_only_what_could_not_be_known_is_optional() -> None:
    assert {c.name for c in columns_of(Sample) if not c.optional} == REQUIRED | {"method"}


def test_the_statuses_are_those_of_the_design() -> None:
    assert STATUSES == ("ok", "oom", "timeout", "crashed", "unsupported", "mismatch")


def test_a_sample_is_plain_data() -> None:
    sample = sample_of(make_task(), total_s=0.5)
    assert Sample(**json.loads(json.dumps(dataclasses.asdict(sample)))) == sample


def test_the_time_is_in_utc_to_the_millisecond() -> None:
    then = datetime.fromisoformat(utc_now())
    assert then.utcoffset() == timedelta(0)
    assert then.microsecond % 1000 == 0
    assert utc_now() <= (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
