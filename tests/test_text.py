"""Tests of kvbench/text.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.text import clip, printable


@pytest.mark.parametrize("text", ["", "plain", "a b", "明天 é 🤷", "'\"\\[x]"])
def test_text_that_prints_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb", r"a\nb"),
        ("\t\r", r"\t\r"),
        ("\x00\x1b[31m", r"\x00\x1b[31m"),
        ("\u2028", r"\u2028"),
        ("\u202e", r"\u202e"),
        ("\udc80", r"\udc80"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, escaped: str) -> None:
    assert printable(text) == escaped


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_one_line_that_can_be_written(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert shown.encode("utf-8").decode("utf-8") == shown


def test_a_long_text_is_cut_to_the_length() -> None:
    assert clip("x" * 60) == "x" * 60
    assert clip("x" * 61) == "x" * 57 + "..."
    assert clip("abcdef", 5) == "ab..."


@pytest.mark.parametrize(("value", "text"), [(None, "None"), (5, "5"), ([1], "[1]")])
def test_any_value_has_a_text(value: object, text: str) -> None:
    assert clip(value) == text


def test_a_number_too_long_to_print_is_called_that(snapshot: object) -> None:
    assert clip(1 << 50_000) == snapshot
