"""Tests of kvbench report, compare, show and runs, called as a person calls them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvbench.cli import main
from kvbench.records.sample import Sample, sample_of
from tests.fakes import make_case, make_task
from tests.records.reading import rows_of
from tests.report.saved import grid, save, time_of

ROOT = Path(__file__).parents[2]


def run_cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a call that fails with exit code 2 says: one line that ends as a sentence does."""
    assert run_cli(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kvbench: ")
    assert len(error.splitlines()) == 1
    assert error.rstrip().endswith((".", "?"))
    return error


def slower_by(factor: float) -> list[Sample]:
    return grid(lambda case: factor * time_of(case))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of the same cases: as fast, slower, faster, with more memory; others."""
    folder = tmp_path_factory.mktemp("results")
    cases = ({"model": "gpt2", "device": "cpu"}, {"model": "llama", "device": "cuda"})
    save(folder / "base", grid(), cases=cases, started_at="2026-01-01T00:00:00.000+00:00")
    save(folder / "same", grid())
    save(folder / "slower", slower_by(1.2))
    save(folder / "faster", slower_by(0.8))
    greedy = [dataclasses.replace(s, rss_peak_bytes=700 << 20) for s in grid()]
    save(folder / "greedy", greedy)
    save(folder / "other", grid(model=("other",)))
    return folder


# report


def test_report_writes_into_the_run_and_says_what(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(runs / "base", tmp_path / "run")
    assert run_cli("report", run, "--format", "markdown,svg", "--chart", "phases,speedup") == 0
    written = {line.strip() for line in capsys.readouterr().out.splitlines()}
    assert written == {
        str(run / name)
        for name in ("summary.csv", "summary.md", "charts/phases.svg", "charts/speedup.svg")
    }
    assert all(Path(name).is_file() for name in written)


def test_report_of_several_runs_goes_into_a_folder(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert run_cli("report", runs / "base", runs / "slower", "--out", out, "-o", "markdown") == 0
    assert {row[0] for row in rows_of(out / "summary.csv")} == {"run", "base", "slower"}
    assert not (runs / "base" / "summary.csv").exists()


def test_report_of_several_runs_needs_a_folder(
    runs: Path, capsys: pytest.CaptureFixture[str], snapshot: object
) -> None:
    words = refused(capsys, "report", runs / "base", runs / "same")
    assert words == snapshot


def test_report_into_a_file_is_a_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    refused(capsys, "report", runs / "base", "--out", tmp_path / "file")


def test_another_baseline_changes_speedups_sentences_and_charts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: object
) -> None:
    run = save(tmp_path / "three", grid(cache=("off", "dynamic", "static")))
    assert run_cli("show", run, "--format", "json") == 0
    before = {row["case_id"]: row for row in json.loads(capsys.readouterr().out)}
    assert run_cli("show", run, "--format", "json", "--baseline", "dynamic") == 0
    after = json.loads(capsys.readouterr().out)
    assert {row["baseline"] for row in after} == {"dynamic"}
    # 100 new tokens take twice as long without a cache.
    speedups = {row["cache"]: row["speedup"] for row in after if row["max_new_tokens"] == 100}
    assert speedups == {"off": pytest.approx(0.5), "dynamic": None, "static": pytest.approx(1.0)}
    old = {r["cache"]: r["speedup"] for r in before.values() if r["max_new_tokens"] == 100}
    assert old == {"off": None, "dynamic": pytest.approx(2.0), "static": pytest.approx(2.0)}
    assert run_cli("report", run, "--baseline", "dynamic", "-o", "markdown,html,svg") == 0
    chart = (run / "charts" / "speedup.svg").read_text(encoding="utf-8")
    assert "dynamic / this cache" in chart
    assert "0.500x" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "summary.md").read_text(encoding="utf-8").splitlines()[:8] == snapshot
    said = refused(capsys, "show", run, "--baseline", "concat")
    assert said == snapshot


# compare


@pytest.mark.parametrize("other", ["same", "slower", "faster"])
def test_compare_alone_is_no_judgement(
    runs: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("compare", runs / "base", runs / other) == 0
    out = capsys.readouterr().out
    assert out.count(other) >= 6
    assert "geometric mean" in out


@pytest.mark.parametrize(
    ("other", "options", "code"),
    [
        ("slower", ("--fail-on-slower", "5%"), 1),
        ("slower", ("--fail-on-slower", "0.1"), 1),
        ("slower", ("--fail-on-slower", "25%"), 0),
        ("same", ("--fail-on-slower", "5%"), 0),
        ("faster", ("--fail-on-slower", "5%"), 0),
        ("greedy", ("--fail-on-slower", "5%"), 0),
        ("greedy", ("--fail-on-more-memory", "5%"), 1),
        ("greedy", ("--fail-on-more-memory", "20%"), 0),
        ("slower", ("--fail-on-more-memory", "5%"), 0),
        ("greedy", ("--fail-on-slower", "5%", "--fail-on-more-memory", "5%"), 1),
    ],
)
@pytest.mark.parametrize("output", ["table", "json"])
def test_compare_fails_where_it_is_asked_to(
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    other: str,
    options: tuple[str, ...],
    code: int,
    output: str,
) -> None:
    assert run_cli("compare", runs / "base", runs / other, *options, "-o", output) == code
    captured = capsys.readouterr()
    # The reasons go where they do not disturb what is read by a program.
    assert len(captured.err.splitlines()) == (6 if code else 0)
    assert all(line.startswith(("slower: ", "more memory: ")) for line in captured.err.splitlines())
    if output == "json":
        assert len(json.loads(captured.out)["rows"]) == 6


def test_compare_fails_if_one_of_several_is_slower(runs: Path) -> None:
    several = [runs / name for name in ("base", "same", "slower")]
    assert run_cli("compare", *several, "--fail-on-slower", "5%") == 1


def test_compare_fails_where_nothing_could_be_compared(runs: Path) -> None:
    assert run_cli("compare", runs / "base", runs / "other", "--fail-on-slower", "5%") != 0


def test_compare_fails_where_a_case_of_a_has_failed_in_b(runs: Path, tmp_path: Path) -> None:
    case = make_case(max_new_tokens=100)
    kept = [s for s in grid() if s.case_id != case.id]
    failed = sample_of(make_task(case), status="oom", stage="decode", error="no room")
    worse = save(tmp_path / "worse", [*kept, failed])
    assert run_cli("compare", runs / "base", worse, "--fail-on-slower", "5%") != 0


@pytest.fixture(scope="module")
def powered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs as fast as each other: one takes twice the energy. A third is slower, and saves it."""
    folder = tmp_path_factory.mktemp("powered")
    for name, samples, joules in (
        ("base", grid(repeats=9), 2.0),
        ("hungry", grid(repeats=9), 4.0),
        ("slower", grid(lambda case: 1.2 * time_of(case), repeats=9), 1.0),
    ):
        save(
            folder / name,
            [
                dataclasses.replace(
                    s, energy_j=joules * s.max_new_tokens, energy_method="nvml-total-energy"
                )
                for s in samples
            ],
        )
    return folder


@pytest.mark.parametrize(
    ("other", "verdict", "code"), [("hungry", "more", 0), ("slower", "less", 1)]
)
def test_compare_by_energy_still_fails_by_time(
    powered: Path, capsys: pytest.CaptureFixture[str], other: str, verdict: str, code: int
) -> None:
    options = ("--metric", "energy", "--fail-on-slower", "5%", "--format", "json")
    assert run_cli("compare", powered / "base", powered / other, *options) == code
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["rows"]
    assert {(row["metric"], row["verdict"]) for row in rows} == {("energy", verdict)}
    assert [line.startswith("slower: ") for line in captured.err.splitlines()] == [True] * 6 * code


def test_compare_by_energy_prints_joules(powered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("compare", powered / "base", "--by", "cache", "--metric", "energy") == 0
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert "energy/token of A" in head
    assert "2.00 J" in row and row.split()[-1] == "same"


@pytest.mark.parametrize("option", ["--threshold", "--fail-on-slower"])
def test_a_threshold_of_nothing_is_taken_as_it_is(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    slightly = grid(lambda case: 1.03 * time_of(case), repeats=30)
    a, b = save(tmp_path / "a", grid(repeats=30)), save(tmp_path / "b", slightly)
    run_cli("compare", a, b, option, "0%", "-o", "json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["verdict"] for row in rows} == {"slower"}


def test_compare_prints_csv_for_programs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("compare", runs / "base", runs / "slower", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [float(row["ratio"]) for row in rows] == [pytest.approx(1.2)] * 6


def test_compare_prints_markdown_for_people(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("compare", runs / "base", runs / "slower", "--format", "markdown") == 0
    assert "| verdict |" in capsys.readouterr().out


def test_compare_along_an_axis_of_one_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("compare", runs / "base", "--by", "cache", "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["a"], row["b"], row["cache"]) for row in rows] == [("off", "dynamic", None)] * 3


def test_compare_lists_what_was_left_out(
    runs: Path, capsys: pytest.CaptureFixture[str], snapshot: object
) -> None:
    assert run_cli("compare", runs / "base", runs / "other") == 0
    out = capsys.readouterr().out
    assert out == snapshot
    assert (out.count("not in base"), out.count("not in other")) == (6, 6)


def test_compare_draws_the_ratios(runs: Path, tmp_path: Path) -> None:
    chart = tmp_path / "ratios.svg"
    assert run_cli("compare", runs / "base", runs / "slower", "--chart", chart) == 0
    assert b"<svg" in chart.read_bytes()


@pytest.mark.parametrize(
    "options",
    [("--by", "devise"), (), ("--by", "cache", "--fail-on-slower", "much")],
)
def test_compare_of_what_there_is_not_is_a_sentence(
    runs: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], snapshot: object
) -> None:
    assert refused(capsys, "compare", runs / "base", *options) == snapshot


# show and runs


def test_show_prints_the_run(
    runs: Path, capsys: pytest.CaptureFixture[str], snapshot: object
) -> None:
    assert run_cli("show", runs / "base") == 0
    assert capsys.readouterr().out == snapshot


def test_show_of_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a run", grid(repeats=1), state="interrupted")
    assert run_cli("show", path) == 0
    assert f"kvbench sweep --resume '{path}'" in capsys.readouterr().out


def test_show_prints_no_escape_sequence_of_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = sample_of(make_task(), status="crashed", stage="decode", error="\x1b[2Jgone")
    samples = [*grid(model=("a\x1b]0;title\x07b",), repeats=1), failed]
    assert run_cli("show", save(tmp_path / "run", samples)) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_show_of_a_run_without_a_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: object
) -> None:
    assert run_cli("show", save(tmp_path / "run", [])) == 0
    assert capsys.readouterr().out == snapshot


def test_runs_lists_them(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("runs", runs) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "run"
    assert len(lines) == 6
    # The oldest is the last.
    assert lines[-1].split() == [
        "base",
        "gpt2,",
        "llama",
        "cpu,",
        "cuda",
        "2",
        "2026-01-01",
        "00:00",
        "finished",
    ]


def test_runs_looks_in_results_by_itself(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    snapshot: object,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "runs") == snapshot
    (tmp_path / "results").mkdir()
    assert run_cli("runs") == 0
    assert capsys.readouterr().out == snapshot


# Runs that are damaged


COMMANDS = (("report", "--format", "markdown"), ("show",), ("compare", "--by", "cache"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("file", ["samples.csv", "run.json"])
def test_a_damaged_run_is_a_sentence_with_its_place(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    file: str,
) -> None:
    run = shutil.copytree(runs / "base", tmp_path / "run")
    (run / file).write_text("{")
    name, *options = command
    assert str(run / file) in refused(capsys, name, run, *options)


def test_a_run_without_token_times_has_a_report(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: object
) -> None:
    run = shutil.copytree(runs / "base", tmp_path / "run")
    (run / "tokens.csv").unlink()
    said = refused(capsys, "report", run, "--format", "svg", "--chart", "token_latency,phases")
    assert said == snapshot
    assert run_cli("report", run, "--format", "svg", "--chart", "phases") == 0
    assert [path.name for path in (run / "charts").iterdir()] == ["phases.svg"]


@pytest.mark.parametrize("command", ["report", "compare", "show"])
def test_a_folder_that_is_no_run_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, snapshot: object
) -> None:
    assert refused(capsys, command, tmp_path) == snapshot
    assert refused(capsys, command, tmp_path / "nowhere") == snapshot


def test_one_damaged_run_does_not_hide_the_others(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(runs, tmp_path / "results")
    (folder / "same" / "run.json").write_text("{")
    assert run_cli("runs", folder) == 0
    out = capsys.readouterr().out
    assert out.count("finished") == 5
    assert "unreadable: " in out


# What is imported


def test_reading_never_imports_torch(runs: Path, tmp_path: Path) -> None:
    """One fresh process carries all four commands out, and then looks at what it has loaded."""
    script = """
import sys
from kvbench.cli import main

for arguments in ARGUMENTS:
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code, arguments
heavy = {"torch", "transformers", "accelerate", "safetensors", "huggingface_hub", "tokenizers"}
print("loaded:", sorted(heavy & {name.split(".")[0] for name in sys.modules}))
print("drawn:", "matplotlib" in sys.modules)
"""
    base, slower = str(runs / "base"), str(runs / "slower")
    arguments = [
        ["report", base, slower, "--out", str(tmp_path), "--chart", "phases"],
        ["compare", base, slower, "--chart", str(tmp_path / "ratios.svg")],
        ["compare", base, "--by", "cache", "--format", "json"],
        ["show", base],
        ["runs", str(runs)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", script.replace("ARGUMENTS", repr(arguments))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["loaded: []", "drawn: True"]


# What ended in a traceback

GOLDEN = ROOT / "tests" / "golden" / "gpt2-cpu"


def test_a_flag_may_have_a_colon(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    samples = [dataclasses.replace(s, flags="a:b odd: :3 x:y:9") for s in grid()]
    run = save(tmp_path / "run", samples)
    assert run_cli("report", run) == 0
    assert run_cli("show", run) == 0
    assert "a:b, 42 samples" in capsys.readouterr().out


def test_a_planned_case_without_a_device_is_left_out(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "run")
    keys = json.loads((tmp_path / "run" / "run.json").read_text())
    del keys["cases"][0]["device"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(keys))
    assert run_cli("report", tmp_path / "run") == 0
    assert run_cli("show", tmp_path / "run") == 0
