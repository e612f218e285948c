"""Somebody else's text has no effect on a terminal, a spreadsheet or Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import unicodedata
from pathlib import Path

import pytest

from kvbench.cli import main
from kvbench.media import for_csv, for_json, for_markdown, for_terminal
from tests.report.saved import grid, save

ESCAPES = "\x1b]0;title\x07\x1b[31m\x9b2J\u202etxt\x00\x7f"


def acts_on_a_terminal(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"}


def test_a_terminal_gets_lines_and_nothing_that_it_obeys() -> None:
    assert acts_on_a_terminal(for_terminal(f"a\n{ESCAPES}\tb")) == set()
    assert for_terminal("one\n\ntwo é 明天 \\x") == "one\n\ntwo é 明天 \\x"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("x")'])
def test_a_formula_becomes_text(text: str) -> None:
    assert for_csv(text).startswith("'")


@pytest.mark.parametrize("text", ["gpt2", "text:=1", "a-b", "", "明天", "1-2"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert for_csv(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![x](http://a)", r"!\[x\](http\://a)"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        ("www.evil.org", r"www\.evil.org"),
        ("$x$ `y` a|b #1", r"\$x\$ \`y\` a\|b \#1"),
        ("1. one", r"1\. one"),
        ("- one", r"\- one"),
        ("===", r"\==="),
        ("---", r"\---"),
        ("one\n# two", r"one \# two"),
        # Text that tables are full of.
        ("3.15x (2.96-3.31)", "3.15x (2.96-3.31)"),
        ("-", "-"),
        ("skipped_oom, -4 %, 1.5 s", "skipped_oom, -4 %, 1.5 s"),
    ],
)
def test_markdown_reads_no_markup(text: str, shown: str) -> None:
    assert for_markdown(text) == shown


def test_markdown_is_printed_too() -> None:
    assert acts_on_a_terminal(for_markdown(ESCAPES)) == set()


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", None])
def test_json_means_the_same_in_any_encoding(encoding: str | None) -> None:
    value = {"model": f"é 明天 🤷 {ESCAPES}"}
    document = for_json(json.dumps(value, ensure_ascii=False, indent=2), encoding)
    assert json.loads(document.encode(encoding or "utf-8").decode(encoding or "utf-8")) == value
    assert acts_on_a_terminal(document) == set()


HOSTILE = f"=cmd|' /C calc'!A0 {ESCAPES} ![x](http://evil) <script>alert(1)</script> `x` | y"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in which every editable text contains something active."""
    folder = tmp_path_factory.mktemp("results")
    samples = [
        dataclasses.replace(sample, flags="=1+1 \x1b[31m", attention_used=HOSTILE)
        for sample in grid(model=(HOSTILE, "gpt2"), max_new_tokens=(10, 20), repeats=2)
    ]
    return save(folder / "run", samples, state=f"interrupted {HOSTILE}", notes=(HOSTILE,))


@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("compare", "--by", "cache"),
        ("compare", "--by", "model"),
        *(("compare", "--by", "cache", "--format", name) for name in ("markdown", "csv", "json")),
        ("report", "--format", "markdown"),
    ],
    ids=" ".join,
)
def test_a_hostile_run_shows_as_text(
    capsys: pytest.CaptureFixture[str], hostile: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    out = ["--out", str(tmp_path)] if arguments[0] == "report" else []
    with pytest.raises(SystemExit) as ended:
        main([arguments[0], str(hostile), *arguments[1:], *out])
    assert not ended.value.code
    printed = capsys.readouterr()
    assert acts_on_a_terminal((printed.out + printed.err).replace("\r\n", "\n")) == set()


def test_a_hostile_run_among_others_is_listed_as_text(
    capsys: pytest.CaptureFixture[str], hostile: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["runs", str(hostile.parent)])
    assert acts_on_a_terminal(capsys.readouterr().out) == set()


def test_the_files_of_a_hostile_run_do_nothing(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(hostile), "--out", str(tmp_path), "--format", "markdown"])
    assert not ended.value.code
    text = (tmp_path / "summary.csv").read_text()
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            numeric = cell.replace(".", "").replace("e-", "").removeprefix("-").isdigit()
            assert numeric or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "'=cmd" in text
    markdown = (tmp_path / "summary.md").read_text()
    for live in (r"(?<!\\)[\[<`]", "http://"):
        assert re.search(live, markdown) is None
    assert acts_on_a_terminal(markdown) == set()
