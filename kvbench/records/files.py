"""Files that survive what happens while they are written: whole, or appended row by row."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvbench.records.columns import to_text

__all__ = ["CsvAppender", "cut_rows_after", "cut_torn_end", "write_atomically"]

_END = b"\r\n"
"""What ends a row, as RFC 4180 and Python's csv.writer have it."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or leave the old one: a reader never sees half of it."""
    if isinstance(content, str):
        # What a terminal handed over as undecodable bytes is escaped and not refused.
        content = content.encode("utf-8", "backslashreplace")
    scratch = path.with_name(path.name + ".part")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


class CsvAppender:
    """Appends rows to one CSV file; they are on disk, all or none, when `append` returns.

    Opens the file, or makes it with its header.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        # Unbuffered: what a buffer could not write it would try again when it is closed.
        self._file = path.open("ab", buffering=0)
        try:
            if os.fstat(self._file.fileno()).st_size == 0:
                self.append([header])
        except BaseException:
            self._file.close()
            raise

    def append(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write rows and wait until the disk has them.

        Raises:
            OSError: they could not be written, as on a full disk; the file is as it was before.
        """
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows([to_text(value) for value in row] for row in rows)
        left = memoryview(buffer.getvalue().encode("utf-8", "backslashreplace"))
        # Asked of the system: the file may have been cut since it was opened.
        before = os.fstat(self._file.fileno()).st_size
        try:
            while left:
                left = left[self._file.write(left) :]
            # So that a crash of the machine loses nothing either.
            os.fsync(self._file.fileno())
        except OSError:
            # Should even this fail, the torn row is cut off when the run is resumed.
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def cut_torn_end(path: Path) -> int:
    """Cut off what follows the last whole row of a CSV file; the number of bytes that were cut.

    A row is whole if it ends with a line break outside quotes: a process or a machine that died
    while it wrote leaves one that does not.
    """
    end = 0
    for _, after in _rows(path):
        end = after
    return _cut(path, end)


def cut_rows_after(path: Path, known: set[str]) -> int:
    """Cut off the rows from the first one whose first column is not known; the bytes cut.

    The header is kept.
    """
    end = 0
    for row, after in _rows(path):
        if end and row.split(b",", 1)[0].decode("utf-8", "replace") not in known:
            break
        end = after
    return _cut(path, end)


def _rows(path: Path) -> Iterator[tuple[bytes, int]]:
    """Each whole row, and the offset behind it."""
    offset, quotes = 0, 0
    row: list[bytes] = []
    with path.open("rb") as file:
        for line in file:
            offset += len(line)
            quotes += line.count(b'"')
            row.append(line)
            # Inside quotes there is an odd number of them so far; a quote itself is doubled.
            if line.endswith(_END) and quotes % 2 == 0:
                yield b"".join(row), offset
                row.clear()


def _cut(path: Path, end: int) -> int:
    torn = path.stat().st_size - end
    if torn:
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return torn
