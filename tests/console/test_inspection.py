"""Tests of kvbench/console/inspection.py, on inspections made by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from kvbench.console.formats import show_inspections
from kvbench.console.inspection import print_inspection
from kvbench.records.inspection import Arm, CacheLayers, Inspection
from tests.console.test_printing import HOSTILE, console, output
from tests.fakes import make_inspection, make_step
from tests.prose import added


def shown(inspection: Inspection, width: int = 1000, *, terminal: bool = False) -> str:
    printer = console(width, terminal=terminal)
    print_inspection(printer, inspection)
    return output(printer)


def cells(text: str, label: str) -> list[list[str]]:
    """The cells of both arms in the rows of a label, one row a step."""
    lines = [line for line in text.splitlines() if line.startswith(f"  {label}  ")]
    return [
        [cell.strip() for cell in line[len(label) + 2 :].split("  ") if cell.strip()]
        for line in lines
    ]


def with_last(inspection: Inspection, arm: str, **changes: Any) -> Inspection:
    """The same with another last step of one arm."""
    old: Arm = getattr(inspection, arm)
    steps = (*old.steps[:-1], replace(old.steps[-1], **changes))
    return replace(inspection, **{arm: replace(old, steps=steps)})


def test_both_arms_stand_side_by_side_in_each_step() -> None:
    text = shown(make_inspection())
    assert cells(text, "input ids") == [["[1, 4]"] * 2, ["[1, 5]", "[1, 1]"], ["[1, 6]", "[1, 1]"]]
    assert cells(text, "Q")[2] == ["[1, 4, 6, 8]", "[1, 4, 1, 8]"]
    assert cells(text, "K, V made now")[2] == ["[1, 2, 6, 8]", "[1, 2, 1, 8]"]
    assert cells(text, "K, V attended to")[2] == ["[1, 2, 6, 8]", "[1, 2, 6, 8]"]
    assert cells(text, "cache")[:3] == [["-", f"[3, 2, 1, 2, {n}, 8]"] for n in (4, 5, 6)]
    assert cells(text, "cache bytes")[2] == ["0", "2,304"]
    assert cells(text, "FLOPs")[2] == ["6.00 M", "1.00 M"]
    assert cells(text, "token out")[2] == ["6 ' word6'", "6 ' word6', same"]


def test_the_totals_and_the_formula_have_the_numbers(snapshot: object) -> None:
    text = shown(make_inspection())
    assert cells(text, "positions fed") == [["4 + 5 + 6 = 15", "4 + 1 + 1 = 6"]]
    assert cells(text, "fed again") == [["9", "0"]]
    assert cells(text, "FLOPs")[-1] == ["15.0 M", "6.00 M (2.50 times less)"]
    assert text == snapshot


def test_a_formula_that_does_not_give_the_bytes_is_not_shown() -> None:
    assert "Cache: 2 x" not in shown(with_last(make_inspection(), "cached", cache_bytes=2305))


def test_layers_that_differ_have_a_line_each() -> None:
    kinds = (
        CacheLayers(count=2, keys=(1, 2, 5, 8), values=(1, 2, 5, 8)),
        CacheLayers(count=1, keys=(1, 1, 6, 10), values=(1, 1, 6, 4)),
        CacheLayers(count=4, keys=None, values=None, states=((1, 64, 4), (1, 64, 10))),
        CacheLayers(count=3, keys=(1, 2, 9, 8), values=(1, 2, 9, 8), cross=True),
    )
    text = shown(with_last(make_inspection(), "cached", cache=kinds))
    for line in (
        "2 x [2, 1, 2, 5, 8]",
        "1 x K [1, 1, 6, 10] V [1, 1, 6, 4]",
        "4 x states [1, 64, 4], [1, 64, 10]",
        "3 x cross: [2, 1, 2, 9, 8]",
    ):
        assert line in text
    assert "Cache: 2 x" not in text


def test_layers_with_windows_have_a_formula_with_a_term_for_each_kind(snapshot: object) -> None:
    kinds = tuple(
        CacheLayers(count=n, keys=(1, 2, seen, 8), values=(1, 2, seen, 8))
        for n, seen in ((2, 5), (1, 6))
    )
    of_both = 2 * (2 * 5 + 1 * 6) * 2 * 8 * 4
    text = shown(with_last(make_inspection(), "cached", cache=kinds, cache_bytes=of_both))
    assert f" = {of_both:,} bytes." in text
    assert added(text, shown(make_inspection())) == snapshot


def test_keys_and_values_that_differ_have_rows_of_their_own() -> None:
    text = shown(with_last(make_inspection(), "off", values=(1, 2, 6, 4)))
    assert cells(text, "K attended to")[2] == ["[1, 2, 6, 8]", "[1, 2, 6, 8]"]
    assert cells(text, "V attended to")[2] == ["[1, 2, 6, 4]", "[1, 2, 6, 8]"]


def test_what_was_not_seen_is_a_dash(snapshot: object) -> None:
    nothing = dict.fromkeys(("query", "made_keys", "made_values", "keys", "values"))
    steps = tuple(
        make_step(1, 4, False, **nothing, flops_counted=None, flops_theory=None, texts=None)
        for _ in range(2)
    )
    arms = {"off": Arm(cache="off", steps=steps), "cached": Arm(cache="dynamic", steps=steps)}
    text = shown(make_inspection(**arms, largest_difference=None, notes=("It is a stone.",)))
    for label in ("Q", "K, V made now", "K, V attended to", "FLOPs"):
        assert cells(text, label)[0] == ["-", "-"]
    assert cells(text, "token out")[0] == ["4", "4, same"]
    assert added(text, shown(make_inspection())) == snapshot


def test_flops_of_theory_are_called_so(snapshot: object) -> None:
    text = shown(with_last(make_inspection(), "off", flops_counted=None))
    assert added(text, shown(make_inspection())) == snapshot


def test_arms_that_part_are_told(snapshot: object) -> None:
    text = shown(with_last(make_inspection(), "cached", token_ids=(99,)))
    assert added(text, shown(make_inspection())) == snapshot


def test_a_batch_shows_its_first_row_and_counts_those_that_differ(snapshot: object) -> None:
    seen = make_inspection(prompt_ids=((7, 8, 9, 10),) * 3)
    for arm, ids in (("off", (6, 7, 8)), ("cached", (6, 9, 8))):
        old: Arm = getattr(seen, arm)
        texts = ("a", "b", "c")
        steps = tuple(replace(step, token_ids=ids, texts=texts) for step in old.steps)
        seen = replace(seen, **{arm: replace(old, steps=steps)})
    assert added(shown(seen), shown(make_inspection())) == snapshot


@pytest.mark.parametrize(
    ("difference", "dtype"),
    [(0.0, "float32"), (2e-7, "float32"), (2e-2, "bfloat16"), (2e-2, "float32")],
)
def test_the_difference_is_judged_by_the_dtype(
    difference: float, dtype: str, snapshot: object
) -> None:
    text = shown(make_inspection(largest_difference=difference, dtype=dtype))
    unknown = shown(make_inspection(largest_difference=None, dtype=dtype))
    assert added(text, unknown) == snapshot


def test_one_step_says_that_there_is_nothing_to_compare(snapshot: object) -> None:
    arms = {
        arm: Arm(cache=arm, steps=(make_step(4, 4, arm != "off"),)) for arm in ("off", "dynamic")
    }
    text = shown(make_inspection(off=arms["off"], cached=arms["dynamic"]))
    assert cells(text, "positions fed") == [["4", "4"]]
    assert added(text, shown(make_inspection())) == snapshot


def test_many_steps_are_summed_in_short() -> None:
    steps = tuple(make_step(n, n, False) for n in range(4, 24))
    arm = Arm(cache="off", steps=steps)
    text = shown(make_inspection(off=arm, cached=replace(arm, cache="dynamic")))
    assert cells(text, "positions fed")[0][0] == "4 + 5 + 6 + ... + 23 = 270"


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_a_terminal(width: int) -> None:
    text = shown(make_inspection(), width, terminal=True)
    assert max(map(len, text.splitlines())) <= width
    assert cells(text, "cache")[2] == ["-", "[3, 2, 1, 2, 6, 8]"]


def test_a_narrow_terminal_folds_and_loses_nothing() -> None:
    text = shown(make_inspection(), 40, terminal=True)
    assert max(map(len, text.splitlines())) <= 40
    # Folded cells go on in the line below, so that no character is lost.
    wide = shown(make_inspection(), 200, terminal=True)
    assert sorted("".join(text.split())) == sorted("".join(wide.split()))


def test_hostile_texts_are_shown_as_they_are_and_escaped() -> None:
    bad = "\x1b[31m\n\ud800"
    seen = with_last(make_inspection(model=HOSTILE + bad), "off", texts=(HOSTILE + bad,))
    text = shown(replace(seen, notes=(HOSTILE + bad,)))
    assert text.count(HOSTILE + r"\x1b[31m\n\ud800") == 3
    text.encode("utf-8")


# Formats


def test_json_is_one_valid_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_inspections([make_inspection(model="\ud800")], "json")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    known = json.loads(out)
    assert known["cached"]["steps"][-1]["cache_shape"] == [3, 2, 1, 2, 6, 8]
    assert known["off"]["totals"] == {
        "positions": 15,
        "made_again": 9,
        "flops": 15_000_000,
        "cache_bytes": 0,
    }


def test_markdown_has_a_row_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a|b`c\n```\nd"
    seen = with_last(make_inspection(model=hostile), "off", texts=(hostile,))
    show_inspections([seen], "markdown")
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 * 8 + 4
    # Four cells each, whatever is in them.
    assert all(row.replace(r"\|", "").count("|") == 5 for row in rows)
    assert [line for line in out.splitlines() if line.startswith("```")] == ["```text", "```"] * 2


def test_csv_has_a_row_for_each_strategy_and_step(capsys: pytest.CaptureFixture[str]) -> None:
    show_inspections([make_inspection()], "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["strategy"], row["step"]) for row in rows] == [
        (strategy, str(step)) for strategy in ("off", "dynamic") for step in (1, 2, 3)
    ]
    assert rows[-1]["cache_shape"] == "[3, 2, 1, 2, 6, 8]"
