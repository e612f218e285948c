"""Tests of `--format`: the same on every command that prints, with nothing else on the stream."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from kvbench import api
from kvbench.catalogue import CATALOGUE
from kvbench.cli import main
from kvbench.records.run import load_run
from tests.fakes import FakeEngine, make_inspection

GOLDEN = Path(__file__).parents[1] / "golden"
RUN = str(GOLDEN / "gpt2-cpu")
COMMANDS = {
    "show": ("show", RUN),
    "runs": ("runs", str(GOLDEN)),
    "compare": ("compare", RUN, "--by", "cache"),
    "estimate": ("estimate", "gpt2", "-d", "L4", "-d", "H100 PCIe"),
    "env": ("env",),
    "models": ("models",),
    "probe": ("probe",),
    "verify": ("verify", "gpt2", "-d", "cpu"),
    "inspect": ("inspect", "gpt2", "-n", "3"),
    "dry run": ("sweep", "-d", "cpu", "-n", "5,6", "--dry-run"),
    "sweep": ("sweep", "-d", "cpu", "-n", "5", "-r", "2"),
}


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", lambda **options: fake)
    monkeypatch.setattr(api, "inspect", lambda *arguments, **options: make_inspection())
    monkeypatch.setattr("kvbench.report.build.draw_charts", lambda *arguments: iter(()))
    monkeypatch.chdir(tmp_path)
    return fake


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    found = capsys.readouterr()
    assert not ended.value.code, found.err
    return found.out


def table(text: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows
    for row in rows:
        # A row of another width has the key None, or the value None.
        assert None not in row
        assert None not in row.values()
    return rows


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_one_document(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert json.loads(printed(capsys, *COMMANDS[command], "--format", "json"))


@pytest.mark.parametrize("command", COMMANDS)
def test_csv_is_one_table(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert table(printed(capsys, *COMMANDS[command], "-o", "csv"))


@pytest.mark.parametrize("command", COMMANDS)
def test_json_lines_and_sql_have_a_row_each(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    lines = printed(capsys, *COMMANDS[command], "-o", "jsonl").splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    with sqlite3.connect(":memory:") as base:
        base.executescript(printed(capsys, *COMMANDS[command], "-o", "sql"))
        ((table,),) = base.execute("SELECT name FROM sqlite_master").fetchall()
        ((rows,),) = base.execute(f"SELECT count(*) FROM {table}").fetchall()
    assert table.startswith("kvbench_")
    # A sweep prints each sample as a line, and the cases as SQL.
    assert rows == (len(lines) if command != "sweep" else 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_markdown_has_a_table(capsys: pytest.CaptureFixture[str], command: str) -> None:
    lines = printed(capsys, *COMMANDS[command], "-o", "markdown").splitlines()
    rules = [line for line in lines if line.startswith("|") and set(line) <= set("|-:")]
    assert rules
    assert not any("loading" in line for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_format_that_there_is_not_is_refused_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, command: str, snapshot: object
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMANDS[command], "-o", "cvs"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == snapshot
    assert (engine.tasks, engine.verified, engine.probed) == ([], [], [])


def test_show_gives_the_cases_of_summary_csv(capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(printed(capsys, *COMMANDS["show"], "-o", "json"))
    rows = table(printed(capsys, *COMMANDS["show"], "-o", "csv"))
    assert [case["case_id"] for case in known] == [row["case_id"] for row in rows]
    assert {case["case_id"] for case in known} == {s.case_id for s in load_run(RUN).samples}
    assert list(known[0]) == list(rows[0])


def test_numbers_of_models_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(printed(capsys, *COMMANDS["models"], "-o", "json"))
    assert [one["model"] for one in known] == list(CATALOGUE)
    assert known[0]["cache_bytes_per_token"] == 73_728


def test_an_estimate_has_a_row_for_each_device(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(printed(capsys, *COMMANDS["estimate"], "-o", "csv"))
    assert len(rows) == 2
    assert len({row["hardware"] for row in rows}) == 2
    assert {row["cache_bytes_per_token"] for row in rows} == {"73728"}


def test_rates_have_a_column_for_each_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(printed(capsys, *COMMANDS["probe"], "-o", "csv"))
    assert float(rows[0]["flops_per_s.float32"]) > 0


def test_a_sweep_prints_each_sample_as_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *COMMANDS["sweep"], "--name", "run", "-o", "jsonl").splitlines()
    samples = load_run(Path("results/run")).samples
    assert [json.loads(line)["sample_id"] for line in lines] == [s.sample_id for s in samples]


def test_a_text_that_a_spreadsheet_would_run_is_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(RUN, tmp_path / "runs" / "=1+1")
    (row,) = table(printed(capsys, "runs", str(tmp_path / "runs"), "-o", "csv"))
    assert row["name"] == "'=1+1"
