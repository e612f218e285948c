"""Tests of kvbench/records/files.py: files on a disk that fills up, rows cut anywhere."""

from __future__ import annotations

import csv
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvbench.records.files import CsvAppender, cut_torn_end, drop_rows_but, write_atomically
from tests.records.reading import files_no_larger_than, rows_of

HEADER = ["id", "text", "total_s"]
ROWS = [["a", 'two\r\nlines, "quoted"', 0.1], ["b", "", None], ["c", '"\r\n"', 1e-9]]


def encoded(rows: list[list[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue().encode("utf-8")


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the disk fail to sync; return the inodes of the files that it was asked about."""
    asked: list[int] = []

    def fail(file: int) -> None:
        asked.append(os.fstat(file).st_ino)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    return asked


# Whole files


@pytest.mark.parametrize("content", ["é\r\n\n", b"\x00\xff\n", ""])
def test_a_file_is_written_whole_to_the_byte(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old\n" * 100)
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_undecodable_bytes_are_escaped_and_not_refused(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "r\udcff")
    assert (tmp_path / "file").read_text() == "r\\udcff"


def test_a_file_is_on_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "file", []
    path.write_text("old")
    real = os.fsync

    def sync(file: int) -> None:
        real(file)
        synced.append((os.fstat(file).st_ino, path.read_text()))

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(path, "new")
    assert synced == [(path.stat().st_ino, "old")]


def test_a_disk_that_keeps_nothing_leaves_the_old_file(tmp_path: Path, no_sync: list[int]) -> None:
    path = tmp_path / "file"
    path.write_text("old\n")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new " * 10_000)
    assert len(no_sync) == 1
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"old\n"])
def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with files_no_larger_than(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(path, "x" * 1001)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == (
        {} if before is None else {"file": before}
    )


def test_an_interrupt_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "x")
    assert list(tmp_path.iterdir()) == []


# Rows


def test_rows_are_appended_below_one_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for row in ROWS:
        table = CsvAppender(path, HEADER)
        table.append([row])
        table.close()
    assert path.read_bytes() == encoded([HEADER, *ROWS])


def test_values_stand_as_the_columns_have_them(tmp_path: Path) -> None:
    table = CsvAppender(tmp_path / "table.csv", HEADER)
    table.append([(None, True, 0.1 + 0.2), ("", False, 7)])
    table.append([("r\udcff", "明", float("inf"))])
    table.close()
    assert rows_of(tmp_path / "table.csv")[1:] == [
        ["", "true", "0.30000000000000004"],
        ["", "false", "7"],
        ["r\\udcff", "明", "inf"],
    ]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_of_another_version_keeps_its_own_columns(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "table.csv"
    # It lacks one of our columns, has an unknown one, and another order.
    path.write_bytes(f"{mark}b,later,a\r\n1,2,3\r\n".encode())
    table = CsvAppender(path, ["a", "b", "c"])
    table.append([("A", "B", "C"), ("x,y", None, "C")])
    table.close()
    assert path.read_bytes().decode("utf-8-sig").splitlines() == [
        "b,later,a",
        "1,2,3",
        "B,,A",
        ',,"x,y"',
    ]


def test_no_rows_change_nothing(tmp_path: Path) -> None:
    table = CsvAppender(tmp_path / "table.csv", HEADER)
    table.append([])
    table.close()
    assert (tmp_path / "table.csv").read_bytes() == encoded([HEADER])


def test_rows_are_on_disk_when_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "table.csv", []
    table = CsvAppender(path, HEADER)
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    table.append(ROWS)
    # Read as another process would; everything was synced.
    assert path.read_bytes() == encoded([HEADER, *ROWS])
    assert synced == [path.stat().st_size]
    table.close()


def test_on_a_full_disk_all_rows_are_written_or_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = CsvAppender(path, HEADER)
    table.append(ROWS[:1])
    before = path.read_bytes()
    after = encoded([HEADER, *ROWS])
    for room in range(len(before), len(after)):
        with files_no_larger_than(room), pytest.raises(OSError, match="File too large"):
            table.append(ROWS[1:])
        assert path.read_bytes() == before
    # The file that could not grow keeps its position.
    with files_no_larger_than(len(after)):
        table.append(ROWS[1:])
    table.close()
    assert path.read_bytes() == after


def test_closing_after_a_failed_write_does_not_try_again(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = CsvAppender(path, HEADER)
    with files_no_larger_than(path.stat().st_size + 3), pytest.raises(OSError, match="too large"):
        table.append(ROWS)
    table.close()
    assert path.read_bytes() == encoded([HEADER])


def test_rows_that_the_disk_did_not_keep_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = CsvAppender(tmp_path / "table.csv", HEADER)

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        table.append(ROWS)
    table.close()
    assert (tmp_path / "table.csv").read_bytes() == encoded([HEADER])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_header_that_did_not_fit_is_written_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with files_no_larger_than(3), pytest.raises(OSError, match="File too large"):
        CsvAppender(path, HEADER)
    assert path.read_bytes() == b""
    CsvAppender(path, HEADER).close()
    assert path.read_bytes() == encoded([HEADER])


def test_a_table_that_could_not_be_begun_is_closed(tmp_path: Path) -> None:
    with files_no_larger_than(3), pytest.raises(OSError, match="File too large") as caught:
        CsvAppender(tmp_path / "table.csv", HEADER)
    (table,) = {
        frame.frame.f_locals["self"]
        for frame in caught.traceback
        if isinstance(frame.frame.f_locals.get("self"), CsvAppender)
    }
    was_closed = table._file.closed
    table.close()
    assert was_closed


def test_a_table_that_was_cut_while_it_was_open_goes_on_at_its_new_end(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = CsvAppender(path, HEADER)
    table.append(ROWS)
    os.truncate(path, len(encoded([HEADER, *ROWS[:1]])))
    room = path.stat().st_size + 5
    with files_no_larger_than(room), pytest.raises(OSError, match="File too large"):
        table.append(ROWS[1:])
    assert path.read_bytes() == encoded([HEADER, *ROWS[:1]])
    table.append(ROWS[2:])
    table.close()
    assert path.read_bytes() == encoded([HEADER, ROWS[0], ROWS[2]])


# Torn ends

WHOLE = encoded([HEADER, *ROWS[:1]])


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b"b,x,0.1234",
        b"b,x,0.1234\r",
        b"b",
        b"b,",
        b'b,"two',
        b'b,"two\r\n',
        b'b,"two\r\nlines\r\n',
        b'b,"say ""hi""',
        b'b,"say ""\r\n',
        b'b,"""\r\n',
        b"\x00",
        b"\x00" * 5000,
        b"b,x,\xe6\x98",
    ],
    ids=repr,
)
def test_what_follows_the_last_whole_row_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(WHOLE + torn)
    assert cut_torn_end(path) == len(torn)
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("torn", [b"", b"id", b"id,text,total_s", b"id,text,total_s\r", b"\x00"])
def test_of_a_torn_header_nothing_is_left(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(torn)
    assert cut_torn_end(path) == len(torn)
    assert path.read_bytes() == b""


def test_a_whole_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(encoded([HEADER, *ROWS]))
    os.utime(path, ns=(10**18, 10**18))
    assert cut_torn_end(path) == 0
    assert path.stat().st_mtime_ns == 10**18
    assert path.read_bytes() == encoded([HEADER, *ROWS])


# The characters that quoting is about, and anything else in UTF-8.
CELLS = st.text(st.sampled_from('"\r\n,x\x00é'), max_size=8) | st.text(max_size=8)
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=5)


@settings(deadline=None, max_examples=500, derandomize=True, database=None)
@given(TABLES, st.data())
@example([["id"], ['"\r\n"']], None)
def test_a_table_cut_anywhere_keeps_exactly_its_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], data: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.csv"
    ends = [len(encoded(table[:count])) for count in range(len(table) + 1)]
    # The explicit example is cut at every byte.
    cuts = range(ends[-1] + 1) if data is None else [data.draw(st.integers(0, ends[-1]))]
    for cut in cuts:
        path.write_bytes(encoded(table)[:cut])
        whole = max(count for count, end in enumerate(ends) if end <= cut)
        assert cut_torn_end(path) == cut - ends[whole]
        assert path.read_bytes() == encoded(table[:whole])


# Rows that belong to nothing


@pytest.mark.parametrize("known", [{"a", "b", "c"}, {"a", "b"}, {"a", "c"}, {"b"}, set()])
def test_rows_that_are_not_known_are_dropped_and_no_others(tmp_path: Path, known: set[str]) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(encoded([HEADER, *ROWS]))
    left = [row for row in ROWS if row[0] in known]
    assert drop_rows_but(path, known) == len(ROWS) - len(left)
    assert path.read_bytes() == encoded([HEADER, *left])
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("content", [b"", b"id,text,total_s\r\n"])
def test_a_table_without_rows_keeps_what_it_has(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert drop_rows_but(path, set()) == 0
    assert path.read_bytes() == content


def test_what_is_cut_off_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for torn in (b"d,half", b'e,"another'):
        path.write_bytes(encoded([HEADER, *ROWS]) + torn)
        assert cut_torn_end(path) == len(torn)
    assert (tmp_path / "table.csv.torn").read_bytes() == b'd,halfe,"another'


def test_line_ends_of_an_editor_are_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    text = encoded([HEADER, *ROWS]).replace(b"\r\n", b"\n")
    path.write_bytes(text)
    assert cut_torn_end(path) == 0
    assert path.read_bytes() == text


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [character * 5000 for character in "ab"]

    def write(content: str) -> None:
        for _ in range(50):
            write_atomically(path, content)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, contents))
    assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_keeps_the_rows_that_were_to_be_dropped(
    tmp_path: Path, no_sync: list[int]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(encoded([HEADER, *ROWS]))
    with pytest.raises(OSError, match="No space left"):
        drop_rows_but(path, {"a"})
    assert rows_of(path)[0] == HEADER and len(rows_of(path)) == 4
    assert list(tmp_path.iterdir()) == [path]
