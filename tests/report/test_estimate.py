"""Tests of kvbench/report/estimate.py and of its chart."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.report.estimate import (
    estimate_facts,
    estimate_json,
    estimate_markdown,
    floor_table,
)
from kvbench.report.figures.estimate import estimate_chart, write_estimate_chart
from kvbench.theory.advice import UNBOUNDED
from kvbench.theory.architecture import Architecture
from kvbench.theory.estimate import Estimate, Work, estimate
from kvbench.theory.peaks import published
from tests.theory.families import architecture

GIB = 2**30
GPT2 = Architecture.from_config(CATALOGUE["gpt2"].config)
T4 = published("Tesla T4")
assert T4 is not None


def of(known: Architecture = GPT2, **more: Any) -> Estimate:
    return estimate("gpt2", known, more.pop("work", Work()), **more)


def test_the_facts_have_the_formula_under_the_cache(snapshot: object) -> None:
    facts = estimate_facts(of())
    names = [name for name, _ in facts]
    assert names[:6] == snapshot
    texts = dict(facts)
    assert texts["weights"] == "497,759,232 bytes (475 MiB)"
    assert texts["cache at the end"] == "74,096,640 bytes (70.7 MiB), 14.9 % of the weights"
    assert texts[""] == snapshot
    assert texts["work with"] == snapshot
    assert texts["keys and values"] == snapshot


def test_what_fits_is_told_where_memory_was_given(snapshot: object) -> None:
    (text,) = [text for name, text in estimate_facts(of(memory_bytes=GIB)) if "fits" in name]
    assert text == snapshot
    assert not [name for name, _ in estimate_facts(of()) if "fits" in name]


def test_the_floors_are_a_table() -> None:
    table = floor_table(of(rates=[T4]))
    assert table is not None
    assert table.rows[0][:4] == ("Tesla T4", "published", "320", "8.10")
    assert table.rows[0][-1] == "arithmetic, bandwidth"
    assert floor_table(of()) is None


def test_json_has_everything_and_no_number_for_no_limit(snapshot: object) -> None:
    read = json.loads(estimate_json(of(rates=[T4])), parse_constant=pytest.fail)
    assert read["cache_bytes"] == 74_096_640
    assert read["work"] == {
        "batch": 1,
        "prompt_tokens": 6,
        "new_tokens": 1000,
        "dtype": "float32",
    }
    assert read["floors"][0]["hardware"] == "Tesla T4"
    endless = dataclasses.replace(of(memory_bytes=GIB), longest_context=UNBOUNDED)
    assert json.loads(estimate_json(endless))["longest_context"] is None
    (text,) = [text for name, text in estimate_facts(endless) if "fits" in name]
    assert text == snapshot


def test_markdown_has_the_facts_the_table_and_the_notes(snapshot: object) -> None:
    text = estimate_markdown(of(rates=[T4], max_positions=1000))
    assert "- weights: 497,759,232 bytes" in text
    assert "| Tesla T4 |" in text
    assert text == snapshot


def test_a_hostile_name_is_no_markup() -> None:
    found = estimate("<img src=x>", GPT2, Work())
    assert "<img" not in estimate_markdown(found).replace("\\<img", "")


# The chart


def test_the_chart_has_weights_cache_and_their_sum() -> None:
    figure = estimate_chart(GPT2, of(memory_bytes=GIB))
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.lines}
    weights = 497_759_232 / GIB
    assert list(lines["weights"].get_ydata()) == [weights, weights]
    assert list(lines["device memory"].get_ydata()) == [1.0, 1.0]
    positions, cache = lines["cache, batch 1"].get_data()
    assert list(cache) == [pytest.approx(n * 73_728 / GIB) for n in positions]
    both = lines["weights and cache"].get_ydata()
    assert list(both) == [pytest.approx(size + weights) for size in cache]
    point = axes.lines[-1].get_data()
    assert (point[0][0], point[1][0]) == (1005, 74_096_640 / GIB)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_chart_is_written_the_same_twice(tmp_path: Path, kind: str) -> None:
    paths = [tmp_path / name / f"chart.{kind}" for name in ("one", "two")]
    for path in paths:
        write_estimate_chart(GPT2, of(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_chart_that_cannot_be_drawn_is_a_sentence(tmp_path: Path, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        write_estimate_chart(GPT2, of(), tmp_path / "chart.pdf")
    assert str(caught.value) == snapshot
    known = architecture("gemma3n")
    with pytest.raises(UserError) as caught:
        write_estimate_chart(known, of(known), tmp_path / "chart.png")
    assert str(caught.value) == snapshot
    assert list(tmp_path.iterdir()) == []
