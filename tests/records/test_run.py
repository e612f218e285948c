"""Tests of kvbench/records/run.py and of what writes for it, kvbench/records/writer.py."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.case import Prompt
from kvbench.errors import UserError
from kvbench.records.columns import columns_of
from kvbench.records.run import FORMAT, TOKEN_COLUMNS, load_run
from kvbench.records.sample import Sample, sample_of
from kvbench.records.writer import RunWriter, check_name, write_atomically
from tests.fakes import arm, make_case, make_info, make_task, timed_sample, write_run

HOSTILE = [
    "plain",
    "a, b; c\td",
    'say "hi"',
    '"',
    "two\nlines",
    "two\r\nlines\r",
    "\n",
    " spaces ",
    "明天降温了 🤷 é",
    "e\u0301 \u202e \u2028 \u0085 \x0b \x1c",
    "=1+1",
    "null",
    "None",
    "\\N \\' \\",
    "' | ` * <b>",
    "\x00\x1b[31m",
    "x" * 5000,
]


def sentence(of: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        of()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.endswith(".")
    return text


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_rows(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two samples."""
    return write_run(tmp_path / "run", arm(make_case(), [0.5, 0.25]))


# Writing and reading back


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_samples_come_back_as_they_were(tmp_path: Path, text: str) -> None:
    case = make_case(model=text, prompt=Prompt.of_text(text))
    samples = (
        timed_sample(make_task(case), 0.1 + 0.2, flags="busy_cpu", load_average=1e-9),
        sample_of(make_task(case, repeat=1), status="oom", stage="decode", error=text),
    )
    assert load_run(write_run(tmp_path / "run", samples)).samples == samples


def test_a_very_long_prompt_comes_back(tmp_path: Path) -> None:
    # Longer than the 131,072 characters that the csv module takes in a field by default.
    case = make_case(prompt=Prompt.of_text("x" * 200_000))
    samples = tuple(arm(case, [0.5]))
    assert load_run(write_run(tmp_path / "run", samples)).samples == samples


@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_any_text_and_number_come_back(
    tmp_path_factory: pytest.TempPathFactory, text: str, total: float, size: int
) -> None:
    case = make_case(prompt=Prompt.of_text(text))
    sample = sample_of(make_task(case), total_s=total, kv_cache_bytes=size)
    assert load_run(write_run(tmp_path_factory.mktemp("r") / "run", [sample])).samples == (sample,)


def test_every_column_comes_back_with_its_type(tmp_path: Path) -> None:
    values: dict[type, Any] = {str: "x", int: 7, float: 0.75, bool: True}
    filled = {c.name: values[c.kind] for c in columns_of(Sample)}
    filled |= {"phase": "memory", "method": "each", "status": "mismatch", "stage": "prefill"}
    filled |= {"weights": "pretrained"}
    samples = (Sample(**filled), sample_of(make_task()))
    back = load_run(write_run(tmp_path / "run", samples)).samples
    assert back == samples
    assert [type(v) for v in dataclasses.astuple(back[0])] == [
        type(v) for v in dataclasses.astuple(samples[0])
    ]


def test_run_json_comes_back_as_it_was(tmp_path: Path) -> None:
    info = make_info(
        name="run",
        state="running",
        command=("kvbench", "sweep", "--prompt", "明天, 'x'"),
        plan={"model": ["gpt2"], "repeats": None, "max_spread": 0.05},
        cases=({"case_id": "x", "prompt": {"texts": ["a"], "tokens": None}},),
        notes=("One.",),
    )
    with RunWriter(tmp_path / "run", info) as writer:
        writer.finish("finished", ["Two."])
    back = load_run(tmp_path / "run").info
    assert back.ended_at is not None
    assert back == dataclasses.replace(
        info, state="finished", ended_at=back.ended_at, notes=("One.", "Two.")
    )


def test_an_argument_that_is_not_utf8_does_not_break_run_json(tmp_path: Path) -> None:
    # As Python reads it from the command line: `--out` may name any folder that there is.
    info = make_info(state="running", command=("kvbench", "sweep", "--out", "r\udcff"))
    with RunWriter(tmp_path / "run", info) as writer:
        writer.finish("finished")
    assert load_run(tmp_path / "run").info.command[:3] == ("kvbench", "sweep", "--out")


def test_the_header_is_the_record(run: Path) -> None:
    assert rows_of(run / "samples.csv")[0] == [c.name for c in columns_of(Sample)]
    assert rows_of(run / "tokens.csv") == [list(TOKEN_COLUMNS)]


def test_csv_has_the_line_ends_of_the_standard(run: Path) -> None:
    content = (run / "samples.csv").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == 3


def test_a_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_info(state="running")) as writer:
        for count in (1, 2):
            task = make_task(repeat=count)
            writer.append(timed_sample(task, 0.5), [0.1, 0.2, 0.5])
            # Read as another process would: through the file system, the writer still open.
            assert len(rows_of(tmp_path / "run" / "samples.csv")) == 1 + count
            assert rows_of(tmp_path / "run" / "tokens.csv")[-3:] == [
                [task.sample_id, "1", "0.1"],
                [task.sample_id, "2", "0.2"],
                [task.sample_id, "3", "0.5"],
            ]


def test_a_row_survives_a_crash_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with RunWriter(tmp_path / "run", make_info(state="running")) as writer:
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
        writer.append(timed_sample(make_task(), 0.5), [0.5])
        # Tokens first: a sample that is in samples.csv has all of its tokens.
        assert synced == [
            (tmp_path / "run" / name).stat().st_ino for name in ("tokens.csv", "samples.csv")
        ]


def test_a_run_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_info(state="running")) as writer:
        writer.append(timed_sample(make_task(), 0.5))
        run = load_run(tmp_path / "run")
    assert run.info.state == "running"
    assert [sample.total_s for sample in run.samples] == [0.5]


def test_a_run_leaves_three_files_and_no_lock(run: Path) -> None:
    assert sorted(p.name for p in run.iterdir()) == ["run.json", "samples.csv", "tokens.csv"]


def test_an_existing_folder_is_refused_and_left_as_it_is(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    text = sentence(lambda: RunWriter(run, make_info()))
    assert text == (
        f"{run} exists, and a run is never overwritten: choose another --name or --out."
    )
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_an_existing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert "exists" in sentence(lambda: RunWriter(tmp_path / "run", make_info()))
    assert (tmp_path / "run").read_text() == "mine"


def test_folders_above_are_made(tmp_path: Path) -> None:
    assert load_run(write_run(tmp_path / "a" / "b" / "run", [])).samples == ()


def test_a_file_in_the_place_of_the_folder_above_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    text = sentence(lambda: RunWriter(tmp_path / "results" / "run", make_info()))
    assert "never overwritten" not in text
    assert str(tmp_path / "results") in text


def test_an_exception_leaves_what_was_measured_and_the_state_interrupted(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        RunWriter(tmp_path / "run", make_info(state="running")) as writer,
    ):
        writer.append(timed_sample(make_task(), 0.5))
        raise KeyboardInterrupt
    run = load_run(tmp_path / "run")
    assert run.info.state == "interrupted"
    assert run.info.ended_at is not None
    assert len(run.samples) == 1
    assert not (tmp_path / "run" / ".lock").exists()


def test_an_exception_after_the_end_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        RunWriter(tmp_path / "run", make_info(state="running")) as writer,
    ):
        writer.finish("finished")
        _ = 1 / 0
    assert load_run(tmp_path / "run").info.state == "finished"


def test_a_discarded_run_leaves_no_folder(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_info(state="running")) as writer:
        writer.append(timed_sample(make_task(), 0.5))
        writer.discard()
        assert (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


# Reading what is broken


@pytest.mark.parametrize("kind", ["nothing", "folder", "file"])
def test_what_is_no_run_folder_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("x")
    expected = f"{path}: not a run folder, there is no run.json in it."
    assert sentence(lambda: load_run(path)) == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b"\xff\xfe", b'{"format": 1', b"[" * 100_000, b"\x00"],
    ids=["empty", "cut", "words", "bytes", "half", "deep", "nul"],
)
def test_a_run_json_that_is_not_json_is_told(run: Path, content: bytes) -> None:
    (run / "run.json").write_bytes(content)
    assert sentence(lambda: load_run(run)).startswith(f"{run / 'run.json'}: cannot be read: ")


@pytest.mark.parametrize("content", ["[]", "5", "null", "{}", '{"format": 2}', '{"format": "1"}'])
def test_a_run_json_of_another_format_is_told(run: Path, content: str) -> None:
    (run / "run.json").write_text(content)
    text = sentence(lambda: load_run(run))
    assert text.startswith(f"{run / 'run.json'}: format ")
    assert text.endswith(f"; this kvbench reads {FORMAT}.")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"state": None}, "state: "),
        ({"environment": 5}, "environment: "),
        ({"cases": [5]}, "cases.0: "),
        ({"command": "kvbench"}, "command: "),
    ],
)
def test_a_wrong_key_in_run_json_is_told_by_its_name(
    run: Path, change: dict[str, Any], where: str
) -> None:
    keys = json.loads((run / "run.json").read_text()) | change
    (run / "run.json").write_text(json.dumps(keys))
    assert sentence(lambda: load_run(run)).startswith(f"{run / 'run.json'}: {where}")


def test_a_missing_key_in_run_json_is_told_by_its_name(run: Path) -> None:
    keys = json.loads((run / "run.json").read_text())
    del keys["environment"]["python"]
    (run / "run.json").write_text(json.dumps(keys))
    assert "environment.python: " in sentence(lambda: load_run(run))


def test_samples_that_are_not_there_are_told(run: Path) -> None:
    (run / "samples.csv").unlink()
    assert sentence(lambda: load_run(run)) == (
        f"{run / 'samples.csv'}: not there, so there are no samples."
    )


@pytest.mark.parametrize("name", ["sample_id", "total_s", "cpu_governor"])
def test_a_missing_column_is_told_with_line_and_column(run: Path, name: str) -> None:
    rows = rows_of(run / "samples.csv")
    at = rows[0].index(name)
    write_rows(run / "samples.csv", [row[:at] + row[at + 1 :] for row in rows])
    assert sentence(lambda: load_run(run)) == (
        f"{run / 'samples.csv'} line 1: the column {name} is missing."
    )


def test_an_empty_table_misses_its_first_column(run: Path) -> None:
    (run / "samples.csv").write_bytes(b"")
    assert "line 1: the column sample_id is missing" in sentence(lambda: load_run(run))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("round", "x"),
        ("round", ""),
        ("round", "1.5"),
        ("status", "fine"),
        ("phase", ""),
        ("use_cache", "maybe"),
        ("total_s", "fast"),
        ("weights", "heavy"),
        ("batch_size", "two"),
        ("stage", "before"),
    ],
)
def test_a_wrong_value_is_told_with_line_and_column(run: Path, name: str, value: str) -> None:
    rows = rows_of(run / "samples.csv")
    rows[2][rows[0].index(name)] = value
    write_rows(run / "samples.csv", rows)
    assert sentence(lambda: load_run(run)).startswith(
        f"{run / 'samples.csv'} line 3, column {name}: {value!r} is not right: "
    )


@pytest.mark.parametrize("change", [lambda row: row[:-1], lambda row: [*row, "x"]])
def test_a_row_of_another_length_is_told_with_its_line(
    run: Path, change: Callable[[list[str]], list[str]]
) -> None:
    rows = rows_of(run / "samples.csv")
    write_rows(run / "samples.csv", [*rows[:-1], change(rows[-1])])
    assert sentence(lambda: load_run(run)) == (
        f"{run / 'samples.csv'} line 3: the row has not as many values as the header has columns."
    )


def test_a_column_of_a_later_version_is_passed_over(run: Path) -> None:
    rows = rows_of(run / "samples.csv")
    before = load_run(run).samples
    write_rows(run / "samples.csv", [[*rows[0], "novel"], *([*row, "1"] for row in rows[1:])])
    assert load_run(run).samples == before


@pytest.mark.parametrize("content", [b'"a"b\r\n', b"\xff\xfe\r\n"])
def test_what_is_no_csv_is_told(run: Path, content: bytes) -> None:
    header = (run / "samples.csv").read_bytes().split(b"\r\n")[0]
    (run / "samples.csv").write_bytes(header + b"\r\n" + content)
    assert sentence(lambda: load_run(run)).startswith(
        f"{run / 'samples.csv'}: not a table in CSV: "
    )


# Tables


def test_the_table_of_samples_has_a_row_per_sample_and_nullable_types(run: Path) -> None:
    table = load_run(run).samples_table
    assert list(table.columns) == [c.name for c in columns_of(Sample)]
    assert list(table["total_s"]) == [0.5, 0.25]
    assert list(table["use_cache"]) == [True, True]
    types = {name: str(table[name].dtype) for name in ("use_cache", "batch_size", "energy_j")}
    assert types == {"use_cache": "boolean", "batch_size": "Int64", "energy_j": "float64"}
    assert table["gpu_sm_clock_mhz"].isna().all()


def test_large_integers_do_not_pass_through_floats(tmp_path: Path) -> None:
    size = 2**53 + 1
    samples = [timed_sample(make_task(), 0.5, kv_cache_bytes=size), sample_of(make_task(repeat=1))]
    table = load_run(write_run(tmp_path / "run", samples)).samples_table
    assert table["kv_cache_bytes"][0] == size


def test_the_table_of_no_samples_has_all_columns(tmp_path: Path) -> None:
    table = load_run(write_run(tmp_path / "run", [])).samples_table
    assert (len(table), len(table.columns)) == (0, len(columns_of(Sample)))


def test_the_table_of_tokens_joins_the_samples(tmp_path: Path) -> None:
    task = make_task()
    with RunWriter(tmp_path / "run", make_info(state="running")) as writer:
        writer.append(timed_sample(task, 0.5), [0.125, 0.5])
        writer.finish("finished")
    table = load_run(tmp_path / "run").tokens_table
    assert list(table.columns) == list(TOKEN_COLUMNS)
    assert list(table.itertuples(index=False, name=None)) == [
        (task.sample_id, 1, 0.125),
        (task.sample_id, 2, 0.5),
    ]


def test_token_times_that_are_not_there_are_told(run: Path) -> None:
    (run / "tokens.csv").unlink()
    assert "there are no token times" in sentence(lambda: load_run(run).tokens_table)


@pytest.mark.parametrize("content", ["", "sample_id,new_token,elapsed_s\na,x,0.5\n"])
def test_broken_token_times_are_told(run: Path, content: str) -> None:
    (run / "tokens.csv").write_text(content)
    assert "not a table of token times" in sentence(lambda: load_run(run).tokens_table)


# Names and whole files


@pytest.mark.parametrize("name", ["a", "gpt2-night_1", "2026-01-02.run", "明天", "a b", "x" * 200])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "/", "../x", "a\\b", "a\nb", "a\tb", "\x00", "\x1b[31m"),
        *("a:b", "a*", "?", '"', "<", ">", "|", "\udc80", "\u2028", "\u202e"),
        *("x" * 201, "é" * 101),
    ],
)
def test_a_name_that_is_no_plain_component_is_refused(name: str) -> None:
    assert sentence(lambda: check_name(name)).startswith("--name: ")


def test_a_file_is_written_whole_with_the_line_ends_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old\n")
    write_atomically(path, "é\r\n\n")
    assert path.read_bytes() == "é\r\n\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old\n")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new " * 10_000)
    assert path.read_text() == "old\n"
