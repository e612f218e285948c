"""Whatever the input, a plan gives cases or one sentence, and never another exception."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.errors import UserError
from kvbench.plan.case import Case
from kvbench.plan.options import DESCRIPTIONS
from kvbench.plan.plan import Plan

# The same examples on each run and machine: a failure here is never a matter of luck.
fuzz = settings(deadline=None, derandomize=True, database=None, max_examples=300)

KEYS = st.sampled_from(sorted(DESCRIPTIONS))
WORDS = st.sampled_from(
    [
        "auto",
        "off",
        "dynamic",
        "off,dynamic",
        "true",
        "no",
        "cpu",
        "cuda",
        "cuda:0",
        "cuda:3",
        "gpt2",
        "a/b",
        "float32",
        "bfloat16,float16",
        "random",
        "pretrained",
        "sdpa",
        "eager",
        "1",
        "10",
        "0",
        "-1",
        "1.5",
        "1e3",
        "nan",
        "inf",
        "1-3",
        "5-1",
        "1-9*2",
        "1-9+0",
        "*",
        ",",
    ]
)
RANGES = st.from_regex(r"\d{1,4}(-\d{1,4}([+*]\d{1,2}(\.\d{1,2})?)?)?(,\d{1,12})?", fullmatch=True)
# Surrogates too: an argument that is not UTF-8 arrives with them.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = (
    WORDS
    | RANGES
    | TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=5)
    | st.dates()
    | st.datetimes()
    | st.just(datetime.timedelta(1))
    | st.complex_numbers()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXTS, inner, max_size=3)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=6,
)
PLANS = st.dictionaries(KEYS | TEXTS, VALUES, max_size=4)
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "model": st.lists(st.sampled_from(["gpt2", "a/b", "gpt2-xl"]), min_size=1, max_size=3),
        "device": st.sampled_from(["cpu", "auto", "cuda", "cpu,cuda:1"]),
        "dtype": st.sampled_from(["float32", "bfloat16,float32"]),
        "cache": st.sampled_from(["off", "dynamic", "off,dynamic", ["dynamic", "off"]]),
        "batch_size": RANGES | st.integers(1, 99),
        "prompt": st.lists(st.text(min_size=1), max_size=3),
        "prompt_tokens": st.lists(st.integers(1, 99) | RANGES, max_size=3),
        "max_new_tokens": RANGES,
        "repeats": st.integers(1, 9) | st.just("auto"),
        "seed": st.integers(0, 99),
        "case_timeout": st.floats(0.001, 1e6) | st.integers(1, 9).map(str) | st.none(),
        "keep_going_after_oom": st.booleans() | st.sampled_from(["yes", "off"]),
        "verify": st.booleans() | st.sampled_from(["true", "no", "0"]),
    },
)
FRAGMENTS = st.sampled_from(
    [f"{key}: " for key in sorted(DESCRIPTIONS)]
    + ["\n", "\n  ", "\n- ", "[", "]", "{", "}", ", ", ": ", "? ", "- ", "&a ", "*a ", "|\n ", "# "]
    + [f"!!{tag} " for tag in ("str", "int", "float", "bool", "null", "binary", "timestamp")]
    + [f"!!{tag} " for tag in ("map", "set", "seq", "omap", "pairs", "python/tuple")]
    + ["<<: ", "'", '"', "\\n", "\\ud800", "\t", "---\n", "...\n", "%YAML 1.1\n", "~", "=", "1:30"]
    + ["1:1.5", "0x1f", "0b1", ".inf", ".nan", "2026-01-02", "2026-13-45", "on", "off", "y"]
)


def one_sentence(error: UserError) -> None:
    text = str(error)
    assert len(text.splitlines()) == 1, text
    assert text[-1] in ".?", text


def cases_or_sentence(build: Callable[[], Plan]) -> None:
    try:
        cases = build().cases(("cpu", "cuda"))
    except UserError as error:
        one_sentence(error)
    else:
        assert cases
        assert all(isinstance(case, Case) and len(case.id) == 10 for case in cases)
        assert len({case.key for case in cases}) == len(cases)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "plan.yaml"


@fuzz
@given(KEYS, VALUES)
def test_any_value_of_any_key(key: str, value: Any) -> None:
    cases_or_sentence(lambda: Plan.parse({key: value}))


@fuzz
@given(PLANS)
def test_any_mapping(keys: dict[str, Any]) -> None:
    cases_or_sentence(lambda: Plan.parse(keys))


@fuzz
@given(GOOD)
def test_any_mapping_of_reasonable_values(keys: dict[str, Any]) -> None:
    cases_or_sentence(lambda: Plan.parse(keys))


@fuzz
@given(GOOD)
def test_any_plan_comes_back_from_run_json(keys: dict[str, Any]) -> None:
    # What a resume relies on.
    try:
        plan = Plan.parse(keys)
    except UserError:
        return
    assert Plan.parse(json.loads(json.dumps(plan.model_dump(mode="json")))) == plan


@fuzz
@given(GOOD, st.dictionaries(KEYS, WORDS | RANGES | TEXTS | st.lists(WORDS, min_size=1)))
def test_any_options_over_a_file(path: Path, keys: dict[str, Any], options: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    cases_or_sentence(lambda: Plan.load(path, options))


@fuzz
@given(KEYS, st.lists(WORDS | RANGES | TEXTS, min_size=1, max_size=3))
def test_any_option(key: str, words: list[str]) -> None:
    cases_or_sentence(lambda: Plan.load(None, {key: words}))


@fuzz
@given(st.text(max_size=60))
def test_any_text_as_a_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    cases_or_sentence(lambda: Plan.load(path))


@fuzz
@given(st.binary(max_size=40))
def test_any_bytes_as_a_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    cases_or_sentence(lambda: Plan.load(path))


@settings(fuzz, max_examples=1000)
@given(st.lists(FRAGMENTS | WORDS, max_size=12))
def test_any_scraps_of_yaml_as_a_file(path: Path, scraps: list[str]) -> None:
    path.write_text("".join(scraps), encoding="utf-8")
    cases_or_sentence(lambda: Plan.load(path))


@fuzz
@given(KEYS, FRAGMENTS | WORDS, FRAGMENTS | WORDS | TEXTS.map(repr))
def test_any_scrap_as_the_value_of_a_key(path: Path, key: str, first: str, second: str) -> None:
    path.write_text(f"{key}: {first}{second}\n", encoding="utf-8", errors="replace")
    cases_or_sentence(lambda: Plan.load(path))


@fuzz
@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_as_a_path(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "no-such-folder"
    cases_or_sentence(lambda: Plan.load(f"{folder}/{name}"))
