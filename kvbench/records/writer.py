"""Write a run folder, row by row, so that whatever happens next loses nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from filelock import FileLock

from kvbench.errors import UserError
from kvbench.records.columns import columns_of, to_text
from kvbench.records.run import TOKEN_COLUMNS, RunInfo
from kvbench.records.sample import Sample, utc_now

__all__ = ["RunWriter", "check_name", "check_new", "write_atomically"]


class RunWriter:
    """Writes one run folder. A context manager; rows are on disk when `append` returns.

    Raises:
        UserError: the folder exists, or cannot be made or written.
    """

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path = path
        self.info = info
        self._discarded = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path.parent} cannot be made: {error.strerror}.") from error
        try:
            path.mkdir()
        except FileExistsError as error:
            raise _exists(path) from error
        except OSError as error:
            raise UserError(f"{path} cannot be made: {error.strerror}.") from error
        self._lock = FileLock(path / ".lock")
        self._lock.acquire(timeout=0)
        self._save_info()
        self._samples = _open_csv(path / "samples.csv", [c.name for c in columns_of(Sample)])
        self._tokens = _open_csv(path / "tokens.csv", list(TOKEN_COLUMNS))

    def append(self, sample: Sample, token_times: Sequence[float] = ()) -> None:
        """Write one sample and its per-token times, in seconds from its start."""
        # Tokens first: a sample that is in samples.csv has all of its tokens.
        _append(
            self._tokens,
            (
                (sample.sample_id, index, seconds)
                for index, seconds in enumerate(token_times, start=1)
            ),
        )
        _append(self._samples, [dataclasses.astuple(sample)])

    def finish(self, state: str, notes: Iterable[str] = ()) -> None:
        """Write the end into run.json."""
        self.info = dataclasses.replace(
            self.info, state=state, ended_at=utc_now(), notes=(*self.info.notes, *notes)
        )
        self._save_info()

    def discard(self) -> None:
        """Take the folder away again: nothing was measured that is worth keeping."""
        self._discarded = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.info.state == "running":
                # Left by an exception: what was measured is there, the rest is not.
                self.finish("interrupted")
        finally:
            self._samples.close()
            self._tokens.close()
            self._lock.release()
            (self.path / ".lock").unlink(missing_ok=True)
            if self._discarded:
                shutil.rmtree(self.path)

    def _save_info(self) -> None:
        write_atomically(
            self.path / "run.json",
            json.dumps(dataclasses.asdict(self.info), indent=2, ensure_ascii=False) + "\n",
        )


def check_new(path: Path) -> None:
    """Refuse a folder that exists: a run is never overwritten.

    Raises:
        UserError: it exists.
    """
    if path.exists():
        raise _exists(path)


def check_name(name: str) -> str:
    """The name of a run, if it is one plain component of a path.

    Raises:
        UserError: it has separators or control characters, or means a folder itself.
    """
    if not name or name in (".", "..") or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
        raise UserError(f"--name: {name!r} is not a plain folder name, such as gpt2-night_1.")
    if len(name.encode()) > 200:
        raise UserError("--name: longer than 200 bytes, too long for a folder.")
    return name


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or leave the old one: a reader never sees half of it."""
    scratch = path.with_name(path.name + ".part")
    # What a terminal handed over as undecodable bytes is escaped and not refused.
    with scratch.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _exists(path: Path) -> UserError:
    return UserError(
        f"{path} exists, and a run is never overwritten: choose another --name or --out."
    )


def _open_csv(path: Path, header: Sequence[str]) -> IO[str]:
    file = path.open("x", encoding="utf-8", errors="backslashreplace", newline="")
    _append(file, [header])
    return file


def _append(file: IO[str], rows: Iterable[Iterable[Any]]) -> None:
    # One write per call and fsync, so that a later crash, of the machine too, loses nothing.
    csv.writer(file).writerows([to_text(value) for value in row] for row in rows)
    file.flush()
    os.fsync(file.fileno())
