"""Tests of kvbench/records/check.py."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from kvbench.plan.case import ModelKey
from kvbench.records.check import CHECKS, VERDICTS, Check, check_of, failed
from kvbench.records.columns import columns_of

KEY = ModelKey("gpt2", "random", "cpu", "bfloat16", "auto")


def test_what_the_key_says_is_filled_in(snapshot: object) -> None:
    check = check_of(KEY, "dynamic", "tokens", "pass", "All is well.")
    assert (check.model, check.weights, check.device) == ("gpt2", "random", "cpu")
    assert (check.dtype, check.checked_dtype) == ("bfloat16", "bfloat16")
    assert (check.attention, check.cache, check.session) == ("auto", "dynamic", 0)
    assert (check.check, check.verdict) == ("tokens", "pass")
    assert check.detail == snapshot
    assert check.checked_at.endswith("+00:00")


def test_what_is_given_goes_over_what_the_key_says() -> None:
    check = check_of(KEY, "dynamic", "logits", "pass", ".", checked_dtype="float32", session=2)
    assert (check.dtype, check.checked_dtype, check.session) == ("bfloat16", "float32", 2)


def test_numbers_that_do_not_apply_are_null() -> None:
    check = check_of(KEY, "dynamic", "leak", "pass", ".", leaked_bytes=0)
    optional = [column.name for column in columns_of(Check) if column.optional]
    values = {name: getattr(check, name) for name in optional}
    assert values == dict.fromkeys(optional) | {"leaked_bytes": 0}


def test_the_columns_stand_in_the_order_of_the_file() -> None:
    assert [column.name for column in columns_of(Check)] == [
        "session",
        "checked_at",
        "model",
        "weights",
        "device",
        "dtype",
        "attention",
        "cache",
        "check",
        "checked_dtype",
        "batch_size",
        "prompt_tokens",
        "new_tokens",
        "verdict",
        "detail",
        "agreement",
        "parted_row",
        "parted_at",
        "token_off",
        "token_cached",
        "margin",
        "margin_over_std",
        "rms_over_std",
        "max_over_std",
        "rms_limit",
        "max_limit",
        "floor_rms_over_std",
        "floor_max_over_std",
        "generations",
        "leaked_bytes",
        "positions",
        "case_id",
    ]


def test_each_column_is_described_by_sentences() -> None:
    ends = {column.name: column.description[-1] for column in columns_of(Check)}
    assert {name for name, end in ends.items() if end != "."} == set()


def test_the_names_are_those_of_the_columns() -> None:
    assert CHECKS == ("tokens", "logits", "shape", "leak", "output")
    assert VERDICTS == (
        "pass",
        "near_tie",
        "fail",
        "exempt",
        "inconclusive",
        "not_finished",
        "not_asked",
        "skipped",
    )


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_a_fail_fails(verdict: str) -> None:
    checks = [check_of(KEY, "dynamic", "shape", one, ".") for one in ("pass", verdict)]
    assert failed(checks) is (verdict == "fail")


def test_nothing_checked_has_not_failed() -> None:
    assert not failed([])


def test_a_check_is_plain_data() -> None:
    check = check_of(KEY, "dynamic", "tokens", "near_tie", ".", agreement=0.5, parted_at=3)
    assert Check(**json.loads(json.dumps(dataclasses.asdict(check)))) == check


def test_a_field_that_is_no_column_is_refused() -> None:
    with pytest.raises(TypeError, match="rms"):
        check_of(KEY, "dynamic", "logits", "pass", ".", rms=1.0)


def test_reading_checks_needs_no_torch() -> None:
    code = "import sys, kvbench.records.check; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
