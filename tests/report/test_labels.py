"""Tests of kvbench/report/figures/labels.py."""

from __future__ import annotations

import itertools

import pytest

from kvbench.report.figures.labels import LENGTH, distinct, drawable, named


def test_short_texts_that_differ_stay_as_they_are() -> None:
    assert distinct(["b", "a", "c d"], "run") == ["b", "a", "c d"]
    assert distinct([], "run") == []


def test_a_long_text_loses_its_middle() -> None:
    (short,) = distinct([f"begin {'x' * 100} end"], "run")
    assert len(short) == LENGTH
    assert short.startswith("begin x")
    assert short.endswith("x end")


def test_long_texts_that_differ_in_the_middle_show_where_they_differ() -> None:
    texts = [f"{'a' * 50} {word} {'z' * 50}" for word in ("first", "second")]
    short = distinct(texts, "run")
    assert len(set(short)) == 2
    assert "first" in short[0]
    assert "second" in short[1]
    assert all(len(text) <= LENGTH for text in short)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["??", "??"], ["prompt 1: ??", "prompt 2: ??"]),
        (["a", "??", "b", "??"], ["a", "prompt 2: ??", "b", "prompt 4: ??"]),
        (["a b", " a  b "], ["prompt 1: a b", "prompt 2: a b"]),
        # One that looks like an assigned number.
        (["??", "??", "prompt 1: ??"], ["prompt 1: ??", "prompt 2: ??", "prompt 3: prompt 1: ??"]),
    ],
)
def test_texts_that_are_equal_have_their_number(texts: list[str], expected: list[str]) -> None:
    assert distinct(texts, "prompt") == expected


def test_no_two_labels_are_ever_equal() -> None:
    """All combinations of a few pieces, many of which are equal where they are not cut."""
    pieces = ("", "x" * 30, "??", "y", " ", "prompt 1: ")
    texts = ["".join(parts) for parts in itertools.product(pieces, repeat=4)]
    assert len(set(distinct(texts, "prompt"))) == len(texts)


def test_values_are_named_in_their_order_and_by_their_field(snapshot: object) -> None:
    assert named("cache", ["off", "dynamic", "static"], drawable) == snapshot
    assert named("batch_size", [8, 1], drawable) == {8: "batch 8", 1: "batch 1"}
    assert named("max_new_tokens", [8], drawable) == {8: "8 new tokens"}
    assert named("prompt", ["明", "今", "明"], drawable) == {
        "明": "prompt 1: ?",
        "今": "prompt 2: ?",
    }
    assert named("prompt", ["明", "今"], str) == {"明": "明", "今": "今"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("é ß Ω ж", "é ß Ω ж"), ("明天 x", "?? x"), ("a\nb\x1b", "a\\nb\\x1b"), ("\ud800", "\\ud800")],
)
def test_what_the_font_lacks_is_a_question_mark(text: str, shown: str) -> None:
    assert drawable(text) == shown
