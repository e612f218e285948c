"""Tests of kvbench/console/printing.py, on a console that writes into a string."""

from __future__ import annotations

import dataclasses
import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from kvbench.analysis.forecast import Forecast
from kvbench.catalogue import CATALOGUE
from kvbench.console.printing import (
    make_console,
    print_cases,
    print_environment,
    print_models,
    print_run,
    print_sentences,
    print_stopped,
    print_table,
)
from kvbench.errors import UserError
from kvbench.plan.case import Prompt
from kvbench.records.environment import Device
from kvbench.records.run import Run, load_run
from kvbench.records.sample import Sample, sample_of
from kvbench.report.build import build
from kvbench.report.table import Table
from tests.fakes import arm, make_case, make_environment, make_finding, make_task, write_run
from tests.prose import added

HOSTILE = "[bold]x[/bold] :smile: [link=http://x]y[/link] [/] 'z' 12"


def console(width: int = 1000, *, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
    )


def output(of: Console) -> str:
    """What was printed, without colours."""
    assert isinstance(of.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", of.file.getvalue())


def samples() -> list[Sample]:
    return [
        *arm(make_case(cache="off"), [2.0, 2.2, 1.8, 2.0, 2.1, 1.9]),
        *arm(make_case(), [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]),
    ]


def test_off_a_terminal_nothing_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    made = make_console()
    assert not made.is_terminal
    assert made.width == 1000


@pytest.mark.parametrize("stderr", [False, True])
def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], stderr: bool) -> None:
    made = make_console(stderr=stderr)
    made.print(HOSTILE)
    print_sentences(made, [HOSTILE])
    captured = capsys.readouterr()
    assert (captured.err if stderr else captured.out).splitlines() == [HOSTILE, HOSTILE]
    assert (captured.out if stderr else captured.err) == ""


def test_a_table_is_aligned_with_its_caption_below() -> None:
    to = console()
    print_table(to, Table(("model", "n"), (("gpt2", "1"), ("b", "1000")), (False, True), "Both."))
    assert [line.rstrip() for line in output(to).splitlines()] == [
        "model     n",
        "gpt2      1",
        "b      1000",
        "Both.",
    ]


def test_a_table_without_a_caption_ends_with_its_rows() -> None:
    to = console()
    print_table(to, Table(("n",), (("1",),), (True,), ""))
    assert len(output(to).splitlines()) == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_cells_and_heads_are_printed_as_they_are(terminal: bool) -> None:
    to = console(terminal=terminal)
    print_table(to, Table((HOSTILE,), ((HOSTILE,),), (False,), HOSTILE))
    assert [line.rstrip() for line in output(to).splitlines()] == [HOSTILE] * 3


@pytest.mark.parametrize("width", [20, 40])
def test_on_a_narrow_terminal_no_number_is_broken_or_cut(width: int) -> None:
    to = console(width, terminal=True)
    numbers = ("1.15 s [1.12-1.20]", "987654321", "111222333")
    print_table(to, Table(("one", "two", "three"), (numbers,), (True, True, True), ""))
    text = output(to)
    assert set(" ".join(numbers).split()) <= set(text.split())
    assert max(map(len, text.splitlines())) <= width


def test_where_columns_do_not_fit_a_row_is_a_block() -> None:
    to = console(12, terminal=True)
    print_table(to, Table(("a", "bb"), (("1234567", "7654321"), ("1", "2")), (True, True), "End."))
    lines = [line.rstrip() for line in output(to).splitlines()]
    assert lines == ["a   1234567", "bb  7654321", "", "a   1", "bb  2", "", "End."]


def test_a_dumb_terminal_is_as_wide_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    assert make_console().width == 60


def test_off_a_terminal_there_are_no_colours(tmp_path: Path) -> None:
    to = console()
    print_run(to, load_run(write_run(tmp_path / "run", samples())))
    assert isinstance(to.file, io.StringIO)
    assert "\x1b" not in to.file.getvalue()


def printed(run: Run) -> str:
    to = console()
    print_run(to, run)
    return output(to)


def plain(folder: Path) -> str:
    """What is printed of a run in which all went well."""
    return printed(load_run(write_run(folder / "plain", samples())))


def test_on_a_terminal_the_answer_stands_out(tmp_path: Path, snapshot: object) -> None:
    to = console(200, terminal=True)
    print_run(to, load_run(write_run(tmp_path / "run", samples())))
    assert isinstance(to.file, io.StringIO)
    assert max(re.findall(r"\x1b\[1m([^\x1b]*)", to.file.getvalue()), key=len) == snapshot


def test_a_run_ends_with_table_answer_and_files(tmp_path: Path, snapshot: object) -> None:
    run = load_run(write_run(tmp_path / "run", samples()))
    build((run,), run.path)
    to = console()
    print_run(to, run)
    text = output(to)
    assert re.search(r"100 +1 +2\.00 s \[\S+\] +1\.00 s \[\S+\] +2\.00x \(2\.00.2\.00\)", text)
    assert text == snapshot
    listed = text[text.index("Files:") :].splitlines()[1:]
    assert listed == [f"  {path}" for path in sorted(p for p in run.path.rglob("*") if p.is_file())]
    assert len(listed) == 14


def test_failures_are_counted_and_told(tmp_path: Path, snapshot: object) -> None:
    failed = sample_of(make_task(make_case(batch_size=9)), status="oom", error="No memory.")
    run = write_run(tmp_path / "run", [*samples(), failed], cases=({"device": "cpu"},) * 3)
    assert added(printed(load_run(run)), plain(tmp_path)) == snapshot


def test_a_case_that_has_a_time_is_not_said_to_have_none(tmp_path: Path, snapshot: object) -> None:
    later = sample_of(make_task(make_case(), 6), status="oom", stage="decode", error="No memory.")
    run = load_run(write_run(tmp_path / "run", [*samples(), later]))
    assert added(printed(run), plain(tmp_path)) == snapshot


def test_an_interrupted_run_says_so(tmp_path: Path, snapshot: object) -> None:
    run = load_run(write_run(tmp_path / "run", samples()))
    info = dataclasses.replace(run.info, state="interrupted")
    assert added(printed(dataclasses.replace(run, info=info)), printed(run)) == snapshot


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "it's here; $HOME"
    path = write_run(folder, samples())
    to = console(40, terminal=True)
    run = load_run(path)
    info = dataclasses.replace(run.info, state="interrupted")
    print_run(to, dataclasses.replace(run, info=info))
    (line,) = (line for line in output(to).splitlines() if "--resume" in line)
    # To be pasted into a shell as it stands, and not folded on a narrow terminal.
    command = line[line.index("kvbench") :]
    assert shlex.split(command) == ["kvbench", "sweep", "--resume", str(path)]


def test_a_finished_run_is_not_to_be_gone_on_with(tmp_path: Path) -> None:
    assert "--resume" not in plain(tmp_path)


def test_a_sweep_that_was_stopped_at_once_says_how_to_go_on(snapshot: object) -> None:
    to = console(40, terminal=True)
    print_stopped(to, Path("my results/a run"))
    assert output(to).splitlines() == snapshot


def test_a_sweep_that_was_stopped_before_it_had_a_folder_says_that(snapshot: object) -> None:
    to = console()
    print_stopped(to, None)
    assert output(to) == snapshot


def test_what_was_verified_is_told_below_the_answer(tmp_path: Path, snapshot: object) -> None:
    run = load_run(write_run(tmp_path / "run", samples()))
    finding = make_finding(verdict="fail", detail=f"Said: {HOSTILE}")
    to = console()
    info = dataclasses.replace(run.info, findings=(finding,))
    print_run(to, dataclasses.replace(run, info=info))
    lines = output(to).splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("FAILED, output differs"))
    assert lines[at] == snapshot
    assert lines[at - 1] == snapshot


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", samples())
    for name in (".lock", ".lock-holder", ".DS_Store", "worker.log"):
        (path / name).touch()
    to = console()
    print_run(to, load_run(path))
    listed = output(to)[output(to).index("Files:") :].splitlines()[1:]
    names = [Path(line.strip()).name for line in listed]
    assert names == ["run.json", "samples.csv", "tokens.csv", "worker.log"]


def test_a_run_without_samples_can_be_shown(tmp_path: Path, snapshot: object) -> None:
    to = console()
    print_run(to, load_run(write_run(tmp_path / "run", [])))
    assert output(to) == snapshot


COST = Forecast(seconds=360.0, peak_bytes=round(2.1 * 2**30), long=())


def test_cases_are_listed_with_what_differs(snapshot: object) -> None:
    cases = [make_case(cache=c, max_new_tokens=n) for n in (10, 50) for c in ("off", "dynamic")]
    to = console()
    print_cases(to, cases, COST)
    lines = output(to).splitlines()
    assert lines[0].split() == ["case", "tokens", "cache"]
    assert [line.split() for line in lines[1:5]] == [
        [case.id, str(case.max_new_tokens), case.cache] for case in cases
    ]
    assert lines[5] == snapshot


def test_cases_that_take_hours_are_named_after_the_list(snapshot: object) -> None:
    case, to = make_case(cache="off", max_new_tokens=16_000), console()
    print_cases(to, [case], Forecast(4 * 3600.0, None, ((case, 3.9 * 3600),)))
    # Where theory cannot tell, no memory is claimed.
    assert output(to).splitlines()[-2:] == snapshot


def test_one_case_is_one_case(snapshot: object) -> None:
    to = console()
    print_cases(to, [make_case(prompt=Prompt.of_tokens(5))], COST)
    assert output(to).splitlines()[-1] == snapshot


@pytest.mark.parametrize("text", ["two\nlines", "tab\there", "x" * 500])
def test_a_hostile_prompt_does_not_break_the_list(text: str) -> None:
    to = console()
    cases = [make_case(prompt=Prompt.of_text(text)), make_case(prompt=Prompt.of_text("y"))]
    print_cases(to, cases, COST)
    assert len(output(to).splitlines()) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_are_listed_with_their_cache_bytes(dtype: str) -> None:
    to = console()
    print_models(to, dtype)
    rows = {line.split()[0]: line.split()[1:] for line in output(to).splitlines()[1:-1]}
    assert list(rows) == list(CATALOGUE)
    size = {"float32": "73,728", "bfloat16": "36,864"}[dtype]
    assert rows["gpt2"] == ["124.4", "M", size, "1024", "-"]
    assert rows["mistral-7b"][-1] == "4096"
    assert f"in {dtype}" in output(to)


def test_models_of_an_unknown_dtype_are_a_user_error(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        print_models(console(), "int4")
    assert str(caught.value) == snapshot


def test_the_environment_is_a_line_per_fact(snapshot: object) -> None:
    to = console()
    print_environment(to, make_environment(missing=("CUDA: there is none.",), driver="550.54"))
    lines = output(to).splitlines()
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in lines if "  " in line)
    assert facts["platform"] == "Linux-6.1"
    assert facts["CPUs"] == snapshot
    assert facts["memory"] == "24.0 GiB"
    assert facts["NVIDIA driver"] == "550.54"
    assert facts["CPU governor"] == "-"
    assert facts["device cpu"] == snapshot
    assert facts["device cuda"] == snapshot
    assert facts["torch"] == "2.13.0"
    assert lines[-2:] == snapshot


def test_with_nothing_missing_nothing_is_said_to_be() -> None:
    to = console()
    device = Device(name="cuda", hardware="H100", compute_capability="9.0")
    print_environment(to, make_environment(devices=(device,)))
    assert "Missing" not in output(to)
    assert "H100, compute capability 9.0" in output(to)
