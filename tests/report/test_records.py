"""Tests of kvbench/report/records.py: SQL is fed to SQLite, as somebody would do."""

from __future__ import annotations

import sqlite3

import pytest

from kvbench.cli import main
from kvbench.records.run import load_run
from kvbench.report.records import FORMATS, WRITERS, Records
from tests.report.test_golden import GOLDEN

HOSTILE = 'it\'s "5"; DROP TABLE t;--\n\x00\x1b[31m'


def sql(records: Records) -> str:
    return WRITERS["sql"](records, "utf-8")


def test_each_writer_is_a_format_that_commands_take() -> None:
    assert {*WRITERS} | {"table", "markdown"} == {*FORMATS}


def test_a_table_without_rows_has_its_columns() -> None:
    empty = Records("t", [], {"a": int, "b": str})
    assert WRITERS["csv"](empty, None) == "a,b\r\n"
    with sqlite3.connect(":memory:") as base:
        base.executescript(sql(empty))
        assert [name for _, name, *_ in base.execute("PRAGMA table_info(t)")] == ["a", "b"]


def test_values_come_out_of_sqlite_as_they_went_in() -> None:
    row = {
        'a "b"': HOSTILE,
        "whole": 2**53 + 1,
        "third": 1 / 3,
        "flag": True,
        "nothing": None,
        "digits": "007",
        "list": [1, "x"],
        "rates": {"float32": 1.5e300},
    }
    with sqlite3.connect(":memory:") as base:
        base.executescript(sql(Records("t", [row, {"whole": 3}])) * 2)
        base.row_factory = sqlite3.Row
        first, second, *again = map(dict, base.execute("SELECT * FROM t"))
    assert [first, second] == again
    assert first.pop('a "b"') == r"""it's "5"; DROP TABLE t;--""" + "\n" + r"\x00\x1b[31m"
    assert first == {
        "whole": 2**53 + 1,
        "third": 1 / 3,
        "flag": 1,
        "nothing": None,
        "digits": "007",
        "list": '[1, "x"]',
        "rates.float32": 1.5e300,
    }
    assert {value for name, value in second.items() if name != "whole"} == {None}


def test_a_declared_type_outlives_a_column_that_is_empty_at_first() -> None:
    kinds = {"share": float, "count": int, "name": str, "ok": bool}
    row = dict.fromkeys([*kinds, "other"])
    with sqlite3.connect(":memory:") as base:
        base.executescript(sql(Records("t", [row], kinds)))
        columns = {name: kind for _, name, kind, *_ in base.execute("PRAGMA table_info(t)")}
    assert columns == {
        "share": "REAL",
        "count": "INTEGER",
        "name": "TEXT",
        "ok": "INTEGER",
        "other": "NUMERIC",
    }


def test_nothing_is_no_statement() -> None:
    assert sql(Records("t", [])) == ""


def test_runs_are_collected_in_one_database(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("gpt2-cpu", "h100-gpt2-both")
    with sqlite3.connect(":memory:") as base:
        for name in names:
            with pytest.raises(SystemExit) as ended:
                main(["show", str(GOLDEN / name), "--format", "sql"])
            assert not ended.value.code
            base.executescript(capsys.readouterr().out)
        found = base.execute(
            "SELECT run, count(*), min(total_s_median), sum(use_cache), max(hardware) "
            "FROM kvbench_cases GROUP BY run ORDER BY run"
        ).fetchall()
    runs = sorted((load_run(GOLDEN / name) for name in names), key=lambda run: run.info.name)
    for (run, cases, fastest, cached, hardware), known in zip(found, runs, strict=True):
        count = len(known.info.cases)
        assert (run, cases, cached) == (known.info.name, count, count / 2)
        assert isinstance(fastest, float)
        assert hardware in {device.hardware for device in known.info.environment.devices}
