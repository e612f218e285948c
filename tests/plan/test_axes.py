"""Tests of kvbench/plan/axes.py: a declared axis appears everywhere.

Three axes are declared in a copy of the package, and nothing else in it is changed: one of words,
one of numbers whose default differs from its legacy value, and one that defines another model.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kvbench
from kvbench.plan.axes import AXES, KEYS, MODEL_AXES, STRATEGY_AXES, Axis
from kvbench.plan.case import Case, ModelKey
from kvbench.plan.options import DESCRIPTIONS
from kvbench.plan.plan import Plan
from kvbench.records.columns import columns_of
from kvbench.records.sample import Sample
from tests.fakes import make_case

ROOT = Path(__file__).parents[2]
MODEL = """    place: str = axis("Where it is.", legacy="here")
"""
CASE = """    flavor: str = axis(
        "How it tastes.", column="Its taste.", legacy="plain", choices=("plain", "spicy")
    )
    cups: int = axis(
        "How many cups.", unit="cups", legacy=0, default=1, least=0, in_group=False
    )
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("axes")
    package = Path(kvbench.__file__).parent
    shutil.copytree(package, folder / "kvbench", ignore=shutil.ignore_patterns("__pycache__"))
    declare(folder / "kvbench" / "plan" / "axes.py")
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "COLUMNS": "200"}
    command = [sys.executable, str(Path(__file__).parent / "with_axes.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    assert Path(found["package"]).is_relative_to(folder)
    return found


def declare(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for declaration, after in ((MODEL, "ModelAxes"), (CASE, "CaseAxes")):
        head, body = text.split(f"class {after}", 1)
        # The class ends at two blank lines.
        fields, rest = body.split("\n\n\n", 1)
        text = f"{head}class {after}{fields}\n{declaration}\n\n{rest}"
    file.write_text(text, encoding="utf-8")


# The existing axes


def test_each_axis_is_a_field_a_key_and_a_column() -> None:
    assert tuple(AXES) == tuple(field.name for field in dataclasses.fields(Case))
    assert tuple(field.name for field in dataclasses.fields(ModelKey)) == MODEL_AXES
    assert (*MODEL_AXES, "cache") == STRATEGY_AXES
    assert {*KEYS} - {"use_cache"} <= {*Plan.model_fields}
    assert {*KEYS} <= {*DESCRIPTIONS}
    assert {*AXES} <= {column.name for column in columns_of(Sample)}


PLANNED = [axis for axis in AXES.values() if axis.keys]


def test_only_the_turn_follows_from_the_workload() -> None:
    assert {*AXES} - {axis.name for axis in PLANNED} == {"turn"}


@pytest.mark.parametrize("axis", PLANNED, ids=lambda axis: axis.name)
def test_an_axis_is_set_by_a_key_of_its_name(axis: Axis) -> None:
    assert axis.keys[0].name == axis.name
    assert KEYS[axis.name] is axis.keys[0]


def test_every_axis_but_the_first_ones_has_a_legacy_value() -> None:
    # Otherwise the ids of cases change: with one of these changes those at it, without one all.
    assert {name for name, axis in AXES.items() if not axis.is_added} == {
        *("model", "weights", "device", "dtype", "attention"),
        *("cache", "batch_size", "prompt", "max_new_tokens"),
    }


def test_values_are_ranked_as_declared_and_unknown_ones_last() -> None:
    axis = dataclasses.replace(AXES["dtype"], choices=("b", "a"))
    assert sorted(["c", "a", "b"], key=axis.rank) == ["b", "a", "c"]
    assert sorted([10, 9], key=AXES["batch_size"].rank) == [9, 10]


# Axes that are only declared


def test_a_new_axis_is_a_key_of_the_plan_with_its_default(facts: dict[str, Any]) -> None:
    plan = facts["plan"]
    # The default, which of cups is not what older runs meant.
    assert (plan["flavor"], plan["cups"], plan["place"]) == (["plain"], [1], ["here"])
    assert facts["wrong"] == "flavor: 'sour' is not one of plain, spicy."
    # 2 strategies, 3 lengths, 2 flavors, 2 numbers of cups.
    assert facts["cases"] == 24


def test_a_new_axis_is_an_option_with_its_help(facts: dict[str, Any]) -> None:
    sweep = facts["help"]["sweep"]
    for option, text in (("flavor", "How it tastes."), ("cups", "How many cups.")):
        assert f"--{option} " in sweep
        assert text in sweep
        # What is verified depends on what makes the model, and on the strategy.
        assert f"--{option} " not in facts["help"]["verify"]
    assert "--place " in sweep
    assert "--place " in facts["help"]["verify"]
    assert "flavor" in facts["help"]["compare"]
    assert "8 cases, " in facts["dry"]
    # It is at its legacy value in all of them.
    assert "place" not in facts["dry"]
    assert {"flavor", "cups"} <= {*facts["dry"].split()}


def test_a_new_axis_counts_in_keys_unless_it_is_at_its_legacy_value(facts: dict[str, Any]) -> None:
    assert facts["key"] == make_case().key
    flavor, cups, place = facts["keys"]
    assert flavor == f"{facts['key']} flavor='spicy'"
    assert cups == f"{facts['key']} cups=3"
    assert "attention='sdpa' place='there' cache=" in place
    # Members of a group may differ in cups.
    assert facts["pair_keys"] == [False, True, False]
    assert facts["model_keys"] == [True, True, False]
    # How an axis changes the memory is unknown.
    assert facts["needs"] == [False, False, False]
    assert facts["labels"][0].endswith(", 100 new tokens, flavor spicy")
    assert facts["labels"][1].endswith(", 100 new tokens, cups 3")


def test_cases_that_differ_in_a_new_axis_are_not_pooled(facts: dict[str, Any]) -> None:
    # 2 flavors and 3 lengths; in each, 2 numbers of cups by 2 strategies.
    assert facts["groups"] == 6
    # The baseline of a case differs only in the strategy.
    assert facts["pairs"] == 12
    assert facts["lines"] == 8
    assert facts["round_trip"]


def test_a_new_axis_is_a_column_after_the_others(facts: dict[str, Any]) -> None:
    axes = [*MODEL_AXES, "place", *(name for name in AXES if name not in MODEL_AXES)]
    for header in (facts["header"], facts["summary"]):
        columns = header.split(",")
        assert [name for name in columns if name in {*axes, "flavor", "cups"}] == [
            *axes,
            "flavor",
            "cups",
        ]
        assert columns.index("use_cache") == columns.index("cache") + 1
        assert columns.index("prompt_tokens") == columns.index("prompt") + 1


def test_a_new_axis_is_in_tables_and_pages_where_it_varies(facts: dict[str, Any]) -> None:
    heads = next(line for line in facts["show"].splitlines() if "speedup" in line).split()
    assert heads[:2] == ["flavor", "cups"]
    assert facts["reordered"] == [["plain", 0], ["plain", 2], ["spicy", 0], ["spicy", 2]]
    page = facts["report"]
    assert ">flavor<" in page and ">cups<" in page and ">spicy<" in page
    # Its own line in charts, and its own sentence in the answer.
    assert "cache on (dynamic), flavor spicy, cups 2:" in facts["show"]
    assert page.count("(flavor spicy, cups 2)") == 1
    assert ">place<" not in page


def test_runs_are_compared_along_a_new_axis(facts: dict[str, Any]) -> None:
    found = json.loads(facts["by"])
    assert found["sides"] == ["plain", "spicy"]
    assert len(found["rows"]) == 12
    assert {row["flavor"] for row in found["rows"]} == {None}
    assert {row["cups"] for row in found["rows"]} == {0, 2}
    # Both are in the same rounds of one loaded model.
    assert {row["rounds"] for row in found["rows"]} == {6}
    assert "A: cups 0, B: cups 2" in facts["by_cups"]


def test_runs_that_differ_in_a_new_axis_are_not_pooled(facts: dict[str, Any]) -> None:
    found = json.loads(facts["legacy_and_other"])
    assert found["rows"] == []
    assert len(found["unmatched"]) == 8


def test_an_old_run_compares_as_being_at_the_legacy_value(facts: dict[str, Any]) -> None:
    rows = json.loads(facts["old_and_legacy"])["rows"]
    assert len(rows) == 4
    assert {(row["flavor"], row["cups"], row["place"]) for row in rows} == {("plain", 0, "here")}


def test_an_old_run_is_resumed_at_the_legacy_value(facts: dict[str, Any]) -> None:
    found = facts["resumed"]
    assert found["state"] == "finished"
    assert found["new"] >= 3
    assert found["ids"] == found["recorded"]
    assert found["values"] == [["plain", 0, "here"]]
    assert found["header"] == found["header_before"]
