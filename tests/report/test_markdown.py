"""Tests of kvbench/report/markdown.py, read back with a Markdown parser."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from kvbench.analysis.summary import CaseSummary
from kvbench.media import for_markdown
from kvbench.records.run import RunInfo
from kvbench.report.markdown import markdown_table, summary_markdown
from kvbench.report.table import Table
from kvbench.report.words import answers, proofs
from tests.fakes import make_environment, make_finding, make_info, make_summary
from tests.prose import added

HOSTILE = [
    "a|b",
    "||",
    "a\\|b",
    "\\",
    "<script>alert(1)</script>",
    "<!-- x -->",
    "[x](http://evil)",
    "![x](y)",
    "*bold* **x**",
    "_x_ __init__ a_b",
    "__x__",
    "___",
    "`code` ``x``",
    "# x",
    "a &amp; b &lt;",
    "~~x~~",
    "$x$ 100 % {a}",
    "明天 é 🤷",
    "https://[x]",
    "\\*x\\*",
    "a\\`b`",
]


def parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def inlines(text: str) -> Iterator[str]:
    """Return the text of each block as a reader sees it; anything but plain text is a failure."""
    for token in parsed(text):
        assert token.type != "html_block", token.content
        if token.type == "inline":
            children = token.children or []
            kinds = {child.type for child in children} - {"text", "text_special", "softbreak"}
            assert kinds == set(), (kinds, token.content)
            yield "".join(child.content for child in children)


def pair(**fields: Any) -> list[CaseSummary]:
    speedup = {"speedup": 2.0, "speedup_ci95_low": 1.9, "speedup_ci95_high": 2.1}
    return [make_summary(cache="off", **fields), make_summary(**(speedup | fields))]


def summary(info: RunInfo | None = None) -> str:
    return summary_markdown(info or make_info(), pair())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_cell_is_read_as_it_was_written(text: str) -> None:
    table = Table(("model", "n"), ((text, "1"), ("b", "2")), (False, True), "")
    assert list(inlines(markdown_table(table))) == ["model", "n", text, "1", "b", "2"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_model_is_read_as_it_was_written(text: str) -> None:
    cases = [*pair(model=text), *pair(model="b")]
    shown = list(inlines(summary_markdown(make_info(), cases)))
    assert text in shown
    assert shown[1] == answers(cases)[0] and text in shown[1]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_error_is_read_as_it_was_written(text: str) -> None:
    failed = make_summary(status="crashed", error=text, total_s_median=None, samples=0)
    shown = list(inlines(summary_markdown(make_info(), [failed])))
    assert any(line.endswith(f": {text}") for line in shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_notes_and_hardware_are_read_as_they_were_written(text: str) -> None:
    devices = make_environment().devices
    info = make_info(
        name=f"run {text}",
        notes=(f"Note: {text}",),
        environment=make_environment(devices=(type(devices[0])(name="cpu", hardware=text),)),
    )
    shown = list(inlines(summary_markdown(info, pair())))
    assert f"run {text}" in shown
    assert f"Note: {text}" in shown
    assert any(line.startswith(f"cpu: {text}, 2 threads. kvbench 0.1.0") for line in shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_finding_is_read_as_it_was_written(text: str) -> None:
    info = make_info(findings=(make_finding(model=text, detail=f"Said: {text}"),))
    assert proofs(info)[0] in inlines(summary_markdown(info, pair()))


def test_it_says_that_nothing_was_verified() -> None:
    info = make_info(plan={"verify": False})
    assert added(summary(info), summary()) == "\n".join(map(for_markdown, proofs(info)))


def test_each_finding_is_a_paragraph_of_its_own() -> None:
    info = make_info(findings=(make_finding(), make_finding(model="t5", verdict="fail")))
    assert set(proofs(info)) <= set(inlines(summary_markdown(info, pair())))


def test_line_breaks_do_not_end_a_row() -> None:
    table = Table(("a",), (("x\n\ny\r\n| z",),), (False,), "")
    assert list(inlines(markdown_table(table))) == ["a", "x y | z"]


def test_a_table_is_padded_and_aligned() -> None:
    table = Table(("model", "n"), (("gpt2", "1"), ("b", "1000")), (False, True), "")
    assert markdown_table(table).splitlines() == [
        "| model |    n |",
        "|-------|-----:|",
        "| gpt2  |    1 |",
        "| b     | 1000 |",
    ]


def test_a_table_without_rows_is_a_table() -> None:
    assert list(inlines(markdown_table(Table(("a", "b"), (), (False, True), "")))) == ["a", "b"]


def test_the_summary_has_title_answer_table_and_environment(snapshot: object) -> None:
    info = make_info(notes=("The GPU was shared.",))
    assert summary_markdown(info, pair(same_output=True)) == snapshot


@pytest.mark.parametrize("same", [[True, True], [True, False], [None, None]])
def test_it_says_in_how_many_pairs_the_tokens_agree(
    same: list[bool | None], snapshot: object
) -> None:
    cases = [make_summary(same_output=s, max_new_tokens=n) for n, s in enumerate(same, start=10)]
    unknown = [dataclasses.replace(case, same_output=None) for case in cases]
    text, base = (summary_markdown(make_info(), one) for one in (cases, unknown))
    assert added(text, base) == snapshot


@pytest.mark.parametrize("state", ["interrupted", "running"])
def test_a_run_that_is_not_complete_says_so(state: str, snapshot: object) -> None:
    assert added(summary(make_info(state=state)), summary()) == snapshot


def test_failures_are_a_list(snapshot: object) -> None:
    failed = make_summary(status="oom", error="No memory.", total_s_median=None, samples=0)
    text = summary_markdown(make_info(), [*pair(), failed])
    kinds = [token.type for token in parsed(text)]
    assert kinds.count("list_item_open") == 1
    assert added(text, summary()) == snapshot


def test_a_device_is_told_once(snapshot: object) -> None:
    info = make_info(cases=({"device": "cpu"}, {"device": "cuda"}, {"device": "cpu"}))
    assert added(summary(info), summary()) == snapshot


def test_a_run_without_samples_has_a_summary(snapshot: object) -> None:
    assert summary_markdown(make_info(), []) == snapshot
