"""Tests of kvbench/report/build.py: what is derived from runs, and that it is reproducible."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvbench.errors import UserError
from kvbench.records.run import Run, load_run
from kvbench.report import figures
from kvbench.report.build import FORMATS, build
from kvbench.report.figures.ahead import images_ahead
from tests.fakes import make_finding
from tests.report.saved import HOSTILE, grid, run_of, save, time_of
from tests.run.faults import is_gone, wait_until

SOURCES = {"run.json", "samples.csv", "tokens.csv"}


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def built(out: Path, *runs: Run, **options: object) -> list[str]:
    paths = build(runs, out, **options)  # type: ignore[arg-type]
    assert all(path.is_file() for path in paths)
    return sorted(str(path.relative_to(out)) for path in paths)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two lengths with hostile names."""
    samples = grid(model=("gpt2", HOSTILE), max_new_tokens=(10, 20), repeats=2)
    made = tmp_path_factory.mktemp("runs") / "first"
    return save(made, samples, findings=(make_finding(),), notes=("A note.",))


# What is written


def test_by_default_all_is_written(folder: Path, tmp_path: Path) -> None:
    charts = ("total_time", "token_latency", "speedup", "memory", "phases")
    assert built(tmp_path, load_run(folder)) == sorted(
        ["summary.csv", "summary.md", "report.html"]
        + [f"charts/{name}.{kind}" for name in charts for kind in ("png", "svg")]
    )
    assert len(hashes(tmp_path)) == 13


@pytest.mark.parametrize(
    ("formats", "files"),
    [
        (("markdown",), ["summary.csv", "summary.md"]),
        (("html",), ["summary.csv", "report.html"]),
        (("svg",), ["summary.csv", "charts/phases.svg"]),
        (("png", "markdown"), ["summary.csv", "summary.md", "charts/phases.png"]),
        ((), ["summary.csv"]),
    ],
)
def test_only_what_is_asked_for_is_written(
    tmp_path: Path, formats: tuple[str, ...], files: list[str]
) -> None:
    run = run_of(grid())
    assert built(tmp_path, run, formats=formats, charts=("phases",)) == sorted(files)
    assert set(hashes(tmp_path)) == set(files)


def test_only_the_charts_that_are_asked_for_are_drawn(tmp_path: Path) -> None:
    options = {"formats": ("svg", "html"), "charts": ("speedup", "phases")}
    assert built(tmp_path, run_of(grid()), **options) == [
        "charts/phases.svg",
        "charts/speedup.svg",
        "report.html",
        "summary.csv",
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index('<figure id="speedup">') < page.index('<figure id="phases">')
    assert page.count("<figure") == 2


def test_for_words_alone_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, chart in figures.CHARTS.items():
        broken = figures.Chart(chart.name, chart.title, chart.question, lambda material: 1 / 0)  # type: ignore[arg-type,return-value]
        monkeypatch.setitem(figures.CHARTS, name, broken)
    assert built(tmp_path, run_of(grid()), formats=("markdown",)) == ["summary.csv", "summary.md"]


@pytest.mark.parametrize("formats", [("pgn",), ("markdown", "pgn")])
def test_a_format_that_there_is_not_is_a_sentence_and_nothing_is_written(
    tmp_path: Path, formats: tuple[str, ...], snapshot: object
) -> None:
    with pytest.raises(UserError) as caught:
        build([run_of(grid())], tmp_path / "out", formats=formats)
    assert str(caught.value) == snapshot
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "formats",
    [
        ("svg",),
        FORMATS,
        ("markdown",),
    ],
)
def test_a_chart_that_there_is_not_is_a_sentence_and_nothing_is_written(
    tmp_path: Path, formats: tuple[str, ...], snapshot: object
) -> None:
    with pytest.raises(UserError) as caught:
        build([run_of(grid())], tmp_path / "out", formats=formats, charts=("total",))
    assert str(caught.value) == snapshot
    assert not (tmp_path / "out").exists()


def test_a_chart_that_is_asked_for_and_has_no_data_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="devices"):
        build([run_of(grid())], tmp_path, charts=("devices",))


# Summaries


def test_the_summary_has_a_row_for_each_case(tmp_path: Path) -> None:
    build([run_of(grid())], tmp_path, formats=())
    rows = rows_of(tmp_path / "summary.csv")
    assert len(rows) == 6
    assert "run" not in rows[0]
    assert rows[-1]["cache"] == "dynamic"
    assert float(rows[-1]["total_s_median"]) == 1.0
    assert float(rows[-1]["speedup"]) == 2.0
    assert rows[-2]["speedup"] == ""


def test_the_summary_of_several_runs_says_which(tmp_path: Path) -> None:
    runs = [run_of(grid(), "one"), run_of(grid(lambda case: 3 * time_of(case)), "two")]
    build(runs, tmp_path, formats=("markdown",))
    rows = rows_of(tmp_path / "summary.csv")
    assert list(rows[0])[:2] == ["run", "case_id"]
    assert [row["run"] for row in rows] == ["one"] * 6 + ["two"] * 6
    assert float(rows[-1]["total_s_median"]) == pytest.approx(3.0)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.index("# one") < text.index("# two")


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    build([run_of(grid(), "same"), run_of(grid(), "same")], tmp_path, formats=())
    assert {row["run"] for row in rows_of(tmp_path / "summary.csv")} == {"same (1)", "same (2)"}


def test_words_of_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    build([run_of(grid(), "same"), run_of(grid(), "same")], tmp_path, formats=("markdown",))
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    heads = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(set(heads)) == 2


def test_a_run_without_a_sample_has_its_files(tmp_path: Path) -> None:
    assert built(tmp_path, run_of([])) == ["report.html", "summary.csv", "summary.md"]
    assert rows_of(tmp_path / "summary.csv") == []


# The same again


def test_what_is_derived_comes_back_the_same_after_it_was_deleted(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "first")
    charts = ("total_time", "token_latency")
    built(copy, load_run(copy), charts=charts)
    before = hashes(copy)
    assert len(before) == len(SOURCES) + 7
    for path in copy.rglob("*"):
        if path.is_file() and path.name not in SOURCES:
            path.unlink()
    assert set(hashes(copy)) == SOURCES
    built(copy, load_run(copy), charts=charts)
    assert hashes(copy) == before


def test_what_was_measured_is_not_touched(folder: Path, tmp_path: Path) -> None:
    before = hashes(folder)
    build([load_run(folder)], tmp_path, formats=("markdown",))
    assert hashes(folder) == before


def test_two_processes_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Other processes, another hash seed, another folder, another day and language."""
    for number, zone in (("1", "Asia/Tokyo"), ("2", "America/Lima")):
        out = tmp_path / number
        out.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": number, "TZ": zone, "LC_ALL": "C.UTF-8"}
        command = ["report", str(folder), "--out", str(out / "made"), "--chart", "token_latency"]
        subprocess.run(
            [sys.executable, "-m", "kvbench", *command, "--chart", "speedup"],
            cwd=out if number == "1" else None,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
        )
    first, second = hashes(tmp_path / "1" / "made"), hashes(tmp_path / "2" / "made")
    assert len(first) == 7
    assert first == second


def test_other_data_give_other_bytes(tmp_path: Path) -> None:
    for name, longest in (("a", 100), ("b", 101)):
        samples = grid(max_new_tokens=(10, longest), repeats=2)
        build([run_of(samples)], tmp_path / name, charts=("phases",))
    first, second = hashes(tmp_path / "a"), hashes(tmp_path / "b")
    assert len(first) == 5
    assert [name for name in first if first[name] == second[name]] == []


def test_no_scratch_file_is_left(folder: Path, tmp_path: Path) -> None:
    build([load_run(folder)], tmp_path, formats=("html",), charts=("phases",))
    assert set(hashes(tmp_path)) == {"summary.csv", "report.html"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux copies a process safely")
@pytest.mark.parametrize("lost", [False, True])
def test_images_come_from_other_processes_unless_these_are_lost(
    monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    here, made = os.getpid(), []

    def image(figure: object, kind: str) -> bytes:
        if os.getpid() != here and lost:
            os._exit(1)
        made.append(kind)
        return f"{kind} of {os.getpid()}".encode()

    # pytest may have threads of its own.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr("kvbench.report.figures.registry.to_bytes", image)
    drawings = list(figures.draw_charts(figures.Material((run_of(grid()),)), ("phases", "speedup")))
    with images_ahead(drawings, ("png", "svg")):
        assert made == []
    kinds = ["png", "svg"] * 2
    pids = [int(one.image(kind).split()[-1]) for one in drawings for kind in ("png", "svg")]
    assert made == (kinds if lost else [])
    assert (set(pids) == {here}) == lost


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux copies a process safely")
def test_a_process_that_makes_images_ends_when_its_parent_is_killed() -> None:
    # It would keep the run folder locked, and the standard output of the program open.
    code = (
        "import multiprocessing, os, signal, time\n"
        "from kvbench.report.figures.ahead import images_ahead\n"
        "class Slow:\n"
        "    def image(self, kind): time.sleep(100)\n"
        "with images_ahead([Slow()], ('png',)):\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=90)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: is_gone(int(done.stdout)), "the end of the copy")
