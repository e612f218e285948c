"""Tests of kvbench/report/write.py."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest

from kvbench.analysis.summary import CaseSummary
from kvbench.records.run import load_run
from kvbench.records.sample import sample_of
from kvbench.report.write import write_derived
from tests.fakes import arm, make_case, make_task, write_run

SOURCES = {"run.json", "samples.csv", "tokens.csv"}
DERIVED = {
    "summary.csv",
    "summary.md",
    "charts/total_time.png",
    "charts/total_time.svg",
    "charts/time_per_token.png",
    "charts/time_per_token.svg",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two lengths of both arms, and one case that failed."""
    totals = {10: ([0.4, 0.5, 0.6], [0.2, 0.3, 0.1]), 50: ([1.4, 1.5, 1.6], [0.5, 0.75, 0.6])}
    samples = [
        sample
        for tokens, both in totals.items()
        for cache, times in zip(("off", "dynamic"), both, strict=True)
        for sample in arm(make_case(cache=cache, max_new_tokens=tokens), times)
    ]
    failed = make_task(make_case(model='a, "b"', max_new_tokens=10))
    samples.append(sample_of(failed, status="oom", stage="decode", error="No memory,\nnone."))
    return write_run(tmp_path / "run", samples)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_derived_files_are_written_beside_the_sources(run: Path) -> None:
    before = files(run)
    paths = write_derived(load_run(run))
    assert {str(path.relative_to(run)) for path in paths} == DERIVED
    assert set(files(run)) == SOURCES | DERIVED
    assert {name: files(run)[name] for name in before} == before


def test_what_is_derived_can_be_deleted_and_comes_back_to_the_byte(run: Path) -> None:
    write_derived(load_run(run))
    first = files(run)
    shutil.rmtree(run / "charts")
    for name in ("summary.csv", "summary.md"):
        (run / name).unlink()
    assert set(files(run)) == SOURCES
    write_derived(load_run(run))
    assert files(run) == first


def test_what_is_derived_is_written_over(run: Path) -> None:
    write_derived(load_run(run))
    first = files(run)
    (run / "summary.md").write_text("edited by hand")
    (run / "charts" / "total_time.png").write_bytes(b"")
    write_derived(load_run(run))
    assert files(run) == first


def test_a_moved_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    write_derived(load_run(run))
    moved = shutil.copytree(run, tmp_path / "elsewhere")
    shutil.rmtree(moved / "charts")
    write_derived(load_run(moved))
    assert files(moved) == files(run)


def test_summary_csv_has_a_row_per_case(run: Path) -> None:
    write_derived(load_run(run))
    with (run / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert list(rows[0]) == [field.name for field in dataclasses.fields(CaseSummary)]
    assert [(r["model"], r["cache"], r["max_new_tokens"], r["status"]) for r in rows] == [
        ("gpt2", "off", "10", "ok"),
        ("gpt2", "dynamic", "10", "ok"),
        ("gpt2", "off", "50", "ok"),
        ("gpt2", "dynamic", "50", "ok"),
        ('a, "b"', "dynamic", "10", "oom"),
    ]
    assert [r["total_s_median"] for r in rows] == ["0.5", "0.2", "1.5", "0.6", ""]
    assert [r["speedup"] for r in rows] == ["", "2.5", "", "2.5", ""]
    assert (rows[0]["use_cache"], rows[1]["use_cache"]) == ("false", "true")
    assert rows[4]["error"] == "No memory,\nnone."


def test_a_run_without_samples_has_tables_and_no_charts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [])
    paths = write_derived(load_run(run))
    assert [path.name for path in paths] == ["summary.csv", "summary.md"]
    assert not (run / "charts").exists()
