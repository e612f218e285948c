"""Tests of kvbench/records/columns.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.analysis.summary import CaseSummary
from kvbench.media import to_text
from kvbench.records.columns import Column, column, columns_of
from kvbench.records.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Record:
    name: str = column("A name.")
    kind: Literal["a", "b"] = column("One of two.")
    flag: bool = column("A flag.")
    size: int | None = column("A size.", unit="bytes", default=None)
    share: float | None = column("A share.", default=None)
    stage: Literal["x"] | None = column("A stage.", default=None)


def test_columns_come_in_the_order_of_the_fields_with_type_unit_and_description() -> None:
    assert columns_of(Record) == (
        Column("name", str, False, "", "A name."),
        Column("kind", str, False, "", "One of two."),
        Column("flag", bool, False, "", "A flag."),
        Column("size", int, True, "bytes", "A size."),
        Column("share", float, True, "", "A share."),
        Column("stage", str, True, "", "A stage."),
    )


def test_a_column_without_a_default_must_be_given() -> None:
    with pytest.raises(TypeError):
        Record(name="x", kind="a")  # type: ignore[call-arg]
    assert Record(name="x", kind="a", flag=True).size is None


@pytest.mark.parametrize("record", [Sample, CaseSummary])
def test_every_column_is_of_a_plain_type_and_described_in_sentences(record: type) -> None:
    for each in columns_of(record):
        assert each.kind in (str, int, float, bool), each.name
        assert each.description.endswith("."), each.name
        assert "\n" not in each.description, each.name


@pytest.mark.parametrize("record", [Sample, CaseSummary])
@pytest.mark.parametrize(
    ("suffix", "unit"), [("_s", "s"), ("_ms", "ms"), ("_bytes", "bytes"), ("_j", "J")]
)
def test_the_name_of_a_column_agrees_with_its_unit(record: type, suffix: str, unit: str) -> None:
    wrong = [c.name for c in columns_of(record) if c.name.endswith(suffix) and c.unit != unit]
    # Tokens per second is a rate, and says so.
    assert [name for name in wrong if not name.startswith("tokens_per")] == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-5, "-5"),
        (0.1, "0.1"),
        (1.0, "1.0"),
        (1e-9, "1e-09"),
        ("", ""),
        ("a, b", "a, b"),
        ("None", "None"),
    ],
)
def test_values_stand_in_csv_as_documented(value: Any, text: str) -> None:
    assert to_text(value) == text


@settings(deadline=None, max_examples=200)
@given(st.floats(allow_nan=False))
def test_a_float_comes_back_to_the_last_bit(value: float) -> None:
    back = float(to_text(value))
    assert back == value
    assert math.copysign(1, back) == math.copysign(1, value)
