"""Write files that survive interruption: as a whole, or appended row by row."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import os
import secrets
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvbench.errors import UserError
from kvbench.media import to_text

__all__ = [
    "CHARTS_FOLDER",
    "CsvAppender",
    "check_real_folder",
    "cut_torn_end",
    "drop_rows_but",
    "write_atomically",
]


CHARTS_FOLDER = "charts"
"""The folder of the charts in a run folder."""


def check_real_folder(path: Path) -> None:
    """Refuse a link in place of a folder: output would be written somewhere else.

    Raises:
        UserError: it is a link.
    """
    if path.is_symlink():
        raise UserError(
            f"{path} is a link: remove it so that files are written into the run.",
            kind="is_a_link",
        )


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or leave the old one: a reader never sees half of it."""
    if isinstance(content, str):
        # Undecodable bytes from a terminal are escaped, not refused.
        content = content.encode("utf-8", "backslashreplace")
    with _replacing(path) as scratch, scratch.open("xb", buffering=0) as file:
        _write_all(file, content)


class CsvAppender:
    """Append rows to one CSV file; they are on disk, all or none, when `append` returns.

    Opens the file, or creates it with its header. A file from another version keeps its own
    columns: values go under their names, columns that this version lacks stay empty, and values
    without a column are left out.

    Args:
        path: the file.
        header: the names of the values in each row passed to `append`, in order.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._path = path
        self._places: list[int | None] | None = None
        self._file = path.open("ab", buffering=0)
        try:
            if os.fstat(self._file.fileno()).st_size == 0:
                self.append([header])
            else:
                columns = _header(path)
                places = {name: place for place, name in enumerate(header)}
                if columns != list(header):
                    self._places = [places.get(name) for name in columns]
        except BaseException:
            self._file.close()
            raise

    def append(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write rows and wait until they are on disk.

        Raises:
            OSError: they could not be written, as on a full disk, and the file is unchanged; or the
                file was removed, after which an open file can still be written to.
        """
        if not self._is_there():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows(self._arranged([to_text(v) for v in row]) for row in rows)
        content = buffer.getvalue().encode("utf-8", "backslashreplace")
        # Ask the system: the file may have been truncated since it was opened.
        before = os.fstat(self._file.fileno()).st_size
        try:
            _write_all(self._file, content)
        except OSError:
            # If even this fails, resuming the run cuts off the torn row.
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _arranged(self, texts: list[str]) -> list[str]:
        if self._places is None:
            return texts
        return ["" if place is None else texts[place] for place in self._places]

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False


def cut_torn_end(path: Path) -> int:
    """Cut off what follows the last whole row of a CSV file, and return how many bytes were cut.

    A row is whole if it ends with a line break outside quotes; a crash while writing leaves one
    that does not. What is cut is kept in a file next to it, with the suffix `.torn`, so nothing is
    lost if the damage came from a manual edit.
    """
    end = 0
    for _, after in _rows(path):
        end = after
    torn = path.stat().st_size - end
    if torn:
        with path.open("r+b") as file:
            file.seek(end)
            with path.with_name(path.name + ".torn").open("ab") as kept:
                kept.write(file.read())
            file.truncate(end)
            os.fsync(file.fileno())
    return torn


def drop_rows_but(path: Path, known: Container[str]) -> int:
    """Drop the rows of a CSV file whose first column is unknown, and return how many."""

    def is_known(row: bytes) -> bool:
        return row.split(b",", 1)[0].decode("utf-8", "replace") in known

    dropped = sum(not is_known(row) for row, _ in itertools.islice(_rows(path), 1, None))
    if dropped:
        with _replacing(path) as scratch, scratch.open("xb") as file:
            for number, (row, _) in enumerate(_rows(path)):
                if number == 0 or is_known(row):
                    file.write(row)
            file.flush()
            os.fsync(file.fileno())
    return dropped


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a name for a new file, which then replaces the old one or is removed."""
    # A name unique to this call: two may write the same file at once.
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield scratch
        scratch.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # The error of a failed write does not name the file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _header(path: Path) -> list[str]:
    # A spreadsheet may have added a byte-order mark.
    with path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        return next(csv.reader(file), [])


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Write and wait for the disk: a machine crash must not lose data either.

    Unbuffered: a buffer would retry a failed write when it is closed.
    """
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _rows(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each whole row and the offset after it."""
    offset, quotes = 0, 0
    row: list[bytes] = []
    with path.open("rb") as file:
        for line in file:
            offset += len(line)
            quotes += line.count(b'"')
            row.append(line)
            # Inside quotes, the number of quotes so far is odd; a quote itself is doubled.
            if line.endswith(b"\n") and quotes % 2 == 0:
                yield b"".join(row), offset
                row.clear()
