"""Tests of kvbench/errors.py."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

import kvbench
from kvbench.errors import UserError, did_you_mean


@pytest.mark.parametrize(
    "word",
    ["modle", "dvice", "model"],
)
def test_the_nearest_known_word_is_offered(word: str, snapshot: object) -> None:
    assert did_you_mean(word, ["device", "model"]) == snapshot


@pytest.mark.parametrize("word", ["", "zzz", "temperature"])
def test_a_word_that_is_near_to_none_gets_no_hint(word: str) -> None:
    assert did_you_mean(word, ["device", "model"]) == ""


def test_nothing_is_near_when_nothing_is_known() -> None:
    assert did_you_mean("model", iter(())) == ""


def test_known_words_may_come_from_an_iterator(snapshot: object) -> None:
    assert did_you_mean("modle", (word for word in ("seed", "model"))) == snapshot


def test_a_user_error_says_its_sentence() -> None:
    assert str(UserError("There is no such file.")) == "There is no such file."


def test_a_sentence_without_an_end_gets_one() -> None:
    assert str(UserError("There is no such file")) == "There is no such file."
    assert str(UserError("Did you mean 'x'?")) == "Did you mean 'x'?"


def test_what_does_not_print_is_escaped(snapshot: object) -> None:
    error = UserError("a\nb\r\x1b[31m\udc80 is no file.")
    assert str(error) == snapshot


def test_a_user_error_is_not_taken_for_a_fault_of_a_value() -> None:
    # pydantic swallows ValueError and AssertionError, and would bury the sentence in its own.
    assert not issubclass(UserError, (ValueError, AssertionError))


def test_a_mistake_keeps_its_kind_and_fields_from_process_to_process() -> None:
    error = UserError("'cuda' is not present", kind="device_absent", device="cuda")
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.kind, sent.fields) == (str(error), error.kind, {"device": "cuda"})


def test_every_user_error_of_the_package_says_its_kind() -> None:
    package = Path(kvbench.__file__).parent
    unkind = [
        f"{file.relative_to(package)}:{call.lineno}"
        for file in package.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "UserError"
        if not any(keyword.arg == "kind" for keyword in call.keywords)
    ]
    assert unkind == []
