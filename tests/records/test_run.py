"""Tests of kvbench/records/run.py: runs that are read back, intact or broken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.errors import UserError
from kvbench.plan.axes import AXES
from kvbench.plan.case import Prompt
from kvbench.records.check import Check, check_of
from kvbench.records.columns import columns_of
from kvbench.records.finding import Finding
from kvbench.records.rows import as_rows, read_columns
from kvbench.records.run import (
    FORMAT,
    Resume,
    load_checks,
    load_info,
    load_run,
)
from kvbench.records.sample import Sample, sample_of
from kvbench.records.tokens import TOKEN_COLUMNS, load_stamps
from kvbench.records.writer import RunWriter
from tests.fakes import (
    arm,
    make_case,
    make_environment,
    make_info,
    make_task,
    timed_sample,
    write_run,
)
from tests.records.reading import rows_of, sentence, write_rows

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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of two samples."""
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
    # Longer than the csv module's default field limit of 131,072 characters.
    case = make_case(prompt=Prompt.of_text("x" * 200_000))
    samples = tuple(arm(case, [0.5]))
    assert load_run(write_run(tmp_path / "run", samples)).samples == samples


@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@given(
    st.text(),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.integers(min_value=0),
)
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
    filled |= {name: axis.choices[-1] for name, axis in AXES.items() if axis.choices}
    # The writer sets the session.
    filled["session"] = 0
    samples = (Sample(**filled), sample_of(make_task(), status="oom"))
    # As a table: no real sample could have all of these values.
    back = as_rows(
        read_columns(write_run(tmp_path / "run", samples) / "samples.csv", Sample), Sample
    )
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
    with RunWriter.create(tmp_path / "run", info) as writer:
        writer.finish("finished", ["Two."])
    back = load_run(tmp_path / "run").info
    assert back.ended_at is not None
    assert back == dataclasses.replace(
        info, state="finished", ended_at=back.ended_at, notes=("One.", "Two.")
    )


def test_resumes_and_findings_come_back_as_they_were(tmp_path: Path) -> None:
    finding = Finding(
        model="gpt2",
        weights="random",
        device="cpu",
        dtype="float32",
        attention="sdpa",
        cache="dynamic",
        verdict="near_tie",
        detail='Parted at "3".',
    )
    info = make_info(
        name="run",
        state="running",
        resumes=(
            Resume(started_at="then", command=("kvbench",)),
            Resume(started_at="later", environment=make_environment(cpu="Another CPU")),
        ),
        findings=(finding,),
    )
    with RunWriter.create(tmp_path / "run", info):
        assert load_info(tmp_path / "run") == info


def test_the_environment_of_a_session_is_the_runs_unless_it_had_its_own() -> None:
    other = make_environment(cpu="Another CPU")
    info = make_info(
        resumes=(
            Resume(started_at="1"),
            Resume(started_at="2", environment=other),
            Resume(started_at="3"),
        )
    )
    environments = [info.environment_of(session) for session in range(4)]
    assert environments == [info.environment, info.environment, other, info.environment]


def test_checks_come_back_as_they_were(tmp_path: Path) -> None:
    checks = (
        check_of(make_case().model_key, "dynamic", "logits", "pass", 'Say "1e-6",\r\nor so.'),
        check_of(
            make_case().model_key,
            "dynamic",
            "tokens",
            "near_tie",
            "Parted.",
            agreement=0.5,
            parted_at=3,
            margin=1e-9,
            batch_size=4,
        ),
    )
    with RunWriter.create(tmp_path / "run", make_info(state="running")) as writer:
        writer.append_checks(checks)
    assert load_checks(tmp_path / "run") == checks
    assert load_run(tmp_path / "run").checks == checks


def test_a_run_in_which_nothing_was_verified_has_no_checks(run: Path) -> None:
    assert load_run(run).checks == ()


def test_a_wrong_value_in_verify_csv_is_told_with_line_and_column(
    run: Path, snapshot: object
) -> None:
    names = [c.name for c in columns_of(Check)]
    check = check_of(make_case().model_key, "dynamic", "logits", "pass", "Fine.")
    values = ["" if v is None else str(v) for v in dataclasses.astuple(check)]
    values[names.index("verdict")] = "perhaps"
    write_rows(run / "verify.csv", [names, values])
    assert sentence(lambda: load_checks(run)) == snapshot


def test_an_argument_that_is_not_utf8_does_not_break_run_json(tmp_path: Path) -> None:
    # As Python reads it from the command line: `--out` may name any folder.
    info = make_info(state="running", command=("kvbench", "sweep", "--out", "r\udcff"))
    with RunWriter.create(tmp_path / "run", info) as writer:
        writer.finish("finished")
    assert load_run(tmp_path / "run").info.command[:3] == ("kvbench", "sweep", "--out")


def test_the_header_is_the_record(run: Path) -> None:
    assert rows_of(run / "samples.csv")[0] == [c.name for c in columns_of(Sample)]
    assert rows_of(run / "tokens.csv") == [list(TOKEN_COLUMNS)]


def test_csv_has_the_line_ends_of_the_standard(run: Path) -> None:
    content = (run / "samples.csv").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == 3


def test_a_run_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "run", make_info(state="running")) as writer:
        writer.append(timed_sample(make_task(), 0.5))
        run = load_run(tmp_path / "run")
    assert run.info.state == "running"
    assert [sample.total_s for sample in run.samples] == [0.5]


def test_a_run_shows_itself_in_a_line(run: Path) -> None:
    assert repr(load_run(run)) == f"Run(path={run!r})"


# Reading broken runs


@pytest.mark.parametrize("kind", ["nothing", "folder", "file"])
def test_what_is_no_run_folder_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("x")
    expected = f"{path}: not a run folder (no run.json)."
    assert sentence(lambda: load_run(path)) == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b"\xff\xfe", b'{"format": 2', b"[" * 100_000, b"\x00"],
    ids=["empty", "cut", "words", "bytes", "half", "deep", "nul"],
)
def test_a_run_json_that_is_not_json_is_told(run: Path, content: bytes, snapshot: object) -> None:
    (run / "run.json").write_bytes(content)
    assert sentence(lambda: load_run(run)) == snapshot


@pytest.mark.parametrize(
    "content", ["[]", "5", "null", "{}", '{"format": 0}', '{"format": "2"}', '{"format": true}']
)
def test_a_run_json_without_a_format_is_refused(run: Path, content: str, snapshot: object) -> None:
    (run / "run.json").write_text(content)
    text = sentence(lambda: load_run(run))
    assert text == snapshot


def test_a_newer_format_is_refused_and_an_older_one_read(run: Path, snapshot: object) -> None:
    keys = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(keys | {"format": FORMAT + 1}))
    assert sentence(lambda: load_run(run)) == snapshot
    (run / "run.json").write_text(json.dumps(keys | {"format": 1}))
    assert load_run(run).info.format == 1


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"state": None}, "state: "),
        ({"environment": 5}, "environment: "),
        ({"cases": [5]}, "cases.0: "),
        ({"command": "kvbench"}, "command: "),
        ({"resumes": [{"command": []}]}, "resumes.0.started_at: "),
        ({"findings": [5]}, "findings.0: "),
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


def test_samples_that_are_not_there_are_told(run: Path, snapshot: object) -> None:
    (run / "samples.csv").unlink()
    assert sentence(lambda: load_run(run)) == snapshot


@pytest.mark.parametrize("name", ["cpu_governor", "attempt", "worker", "output_sha256"])
def test_a_missing_optional_column_has_its_default(run: Path, name: str) -> None:
    whole = load_run(run)
    rows = rows_of(run / "samples.csv")
    at = rows[0].index(name)
    write_rows(run / "samples.csv", [row[:at] + row[at + 1 :] for row in rows])
    default = next(f.default for f in dataclasses.fields(Sample) if f.name == name)
    expected = [dataclasses.replace(sample, **{name: default}) for sample in whole.samples]
    assert list(load_run(run).samples) == expected


def test_an_unknown_column_is_ignored(run: Path) -> None:
    whole = load_run(run)
    header, *rows = rows_of(run / "samples.csv")
    write_rows(run / "samples.csv", [["new", *header], *(["x", *row] for row in rows)])
    assert load_run(run).samples == whole.samples


@pytest.mark.parametrize("name", ["sample_id", "status", "round"])
def test_a_missing_required_column_is_named_with_its_line(
    run: Path, name: str, snapshot: object
) -> None:
    rows = rows_of(run / "samples.csv")
    at = rows[0].index(name)
    write_rows(run / "samples.csv", [row[:at] + row[at + 1 :] for row in rows])
    assert sentence(lambda: load_run(run)) == snapshot


def test_an_empty_table_misses_its_first_column(run: Path, snapshot: object) -> None:
    (run / "samples.csv").write_bytes(b"")
    assert sentence(lambda: load_run(run)) == snapshot


@pytest.mark.parametrize("name", ["round", "phase"])
def test_an_empty_value_is_told_where_there_must_be_one(
    run: Path, name: str, snapshot: object
) -> None:
    rows = rows_of(run / "samples.csv")
    rows[2][rows[0].index(name)] = ""
    write_rows(run / "samples.csv", rows)
    assert sentence(lambda: load_run(run)) == snapshot


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("round", "x"),
        ("round", "1.5"),
        ("status", "fine"),
        ("use_cache", "maybe"),
        ("total_s", "fast"),
        ("total_s", "nan"),
        ("total_s", "inf"),
        ("total_s", "0"),
        ("weights", "heavy"),
        ("batch_size", "two"),
        ("stage", "before"),
    ],
)
def test_a_wrong_value_is_told_with_line_and_column(
    run: Path, name: str, value: str, snapshot: object
) -> None:
    rows = rows_of(run / "samples.csv")
    rows[2][rows[0].index(name)] = value
    write_rows(run / "samples.csv", rows)
    assert sentence(lambda: load_run(run)) == snapshot


def test_a_sample_that_is_ok_has_a_time(run: Path, snapshot: object) -> None:
    rows = rows_of(run / "samples.csv")
    rows[2][rows[0].index("total_s")] = ""
    write_rows(run / "samples.csv", rows)
    assert sentence(lambda: load_run(run)) == snapshot


def test_a_sample_stands_there_once(run: Path, snapshot: object) -> None:
    rows = rows_of(run / "samples.csv")
    write_rows(run / "samples.csv", [*rows, rows[1]])
    assert sentence(lambda: load_run(run)) == snapshot


def test_a_torn_end_is_told_with_what_mends_it(run: Path, snapshot: object) -> None:
    table = run / "samples.csv"
    table.write_bytes(table.read_bytes()[:-40])
    text = sentence(lambda: load_run(run))
    assert text == snapshot


def test_of_several_wrong_values_far_down_the_first_is_told(run: Path, snapshot: object) -> None:
    # Beyond the rows read at a time, and in a later column than an error further down.
    head, row, _ = rows_of(run / "samples.csv")
    rows = [head, *([f"s{number}", *row[1:]] for number in range(600))]
    rows[401][head.index("total_s")] = "fast"
    rows[402][head.index("round")] = "x"
    write_rows(run / "samples.csv", rows)
    assert sentence(lambda: load_run(run)) == snapshot


@pytest.mark.parametrize(
    "change", [lambda row: row[:-1], lambda row: [*row, ""]], ids=["shorter", "longer"]
)
def test_a_row_of_another_length_is_told_with_its_line(
    run: Path, change: Callable[[list[str]], list[str]]
) -> None:
    rows = rows_of(run / "samples.csv")
    write_rows(run / "samples.csv", [*rows[:-1], change(rows[-1])])
    with pytest.raises(UserError) as caught:
        load_run(run)
    assert (caught.value.kind, caught.value.fields["line"]) == ("bad_row", len(rows))


def test_a_table_that_a_spreadsheet_has_saved_is_read(run: Path) -> None:
    before = load_run(run).samples
    table = run / "samples.csv"
    # With a byte-order mark, and the line ends of its system.
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\r\n", b"\n"))
    assert load_run(run).samples == before


def test_a_column_of_a_later_version_is_passed_over(run: Path) -> None:
    rows = rows_of(run / "samples.csv")
    before = load_run(run).samples
    write_rows(run / "samples.csv", [[*rows[0], "novel"], *([*row, "1"] for row in rows[1:])])
    assert load_run(run).samples == before


@pytest.mark.parametrize("content", [b'"a"b\r\n', b"\xff\xfe\r\n"])
def test_what_is_no_csv_is_told(run: Path, content: bytes, snapshot: object) -> None:
    header = (run / "samples.csv").read_bytes().split(b"\r\n")[0]
    (run / "samples.csv").write_bytes(header + b"\r\n" + content)
    assert sentence(lambda: load_run(run)) == snapshot


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
    samples = [
        timed_sample(make_task(), 0.5, kv_cache_bytes=size),
        sample_of(make_task(repeat=1), status="oom"),
    ]
    table = load_run(write_run(tmp_path / "run", samples)).samples_table
    assert table["kv_cache_bytes"][0] == size


def test_the_table_of_no_samples_has_all_columns(tmp_path: Path) -> None:
    table = load_run(write_run(tmp_path / "run", [])).samples_table
    assert (len(table), len(table.columns)) == (0, len(columns_of(Sample)))


def test_the_table_of_tokens_joins_the_samples(tmp_path: Path) -> None:
    task = make_task()
    with RunWriter.create(tmp_path / "run", make_info(state="running")) as writer:
        writer.append(timed_sample(task, 0.5), [0.125, 0.5])
        writer.finish("finished")
    table = load_run(tmp_path / "run").tokens_table
    assert list(table.columns) == list(TOKEN_COLUMNS)
    assert list(table.itertuples(index=False, name=None)) == [
        (task.sample_id, 1, 0.125),
        (task.sample_id, 2, 0.5),
    ]


def test_token_times_that_are_not_there_are_told(run: Path, snapshot: object) -> None:
    (run / "tokens.csv").unlink()
    assert sentence(lambda: load_run(run).tokens_table) == snapshot


@pytest.mark.parametrize("content", ["", "sample_id,new_token,elapsed_s\na,1,0.5,6,7\n"])
def test_broken_token_times_are_told(run: Path, content: str, snapshot: object) -> None:
    (run / "tokens.csv").write_text(content)
    assert sentence(lambda: load_run(run).tokens_table) == snapshot


@pytest.mark.parametrize(
    "content",
    [
        "b,1,0.5\na,1,0.25\na,2,0.5\n",  # Two samples.
        "",  # None.
        "a,1,0.5,6\n",  # One value too many.
        '"a,b",1,0.5\n',
        "a,1.0,0.5\n",
        "a,1,0.5\na,2,0.25\n",  # Back in time.
        "a,0,0.5\n",
        f"{'a' * 70},1,0.5\n",
        "\N{LATIN SMALL LETTER E WITH ACUTE},1,0.5\n",
    ],
)
def test_a_small_table_of_tokens_is_read_as_pandas_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text("sample_id,new_token,elapsed_s\n" + content, encoding="utf-8")

    def read() -> object:
        try:
            names, samples, tokens, elapsed_s = load_stamps(file)
        except UserError as error:
            return error.kind
        return names[samples].tolist(), tokens.tolist(), elapsed_s.tolist()

    found = read()
    monkeypatch.setattr("kvbench.records.tokens._SMALL", -1)
    assert found == read()
