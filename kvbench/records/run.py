"""The run folder: written row by row while a sweep runs, read back as typed records and tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from kvbench.errors import UserError
from kvbench.records.columns import columns_of, to_text
from kvbench.records.environment import Environment
from kvbench.records.sample import Sample, utc_now

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FORMAT",
    "TOKEN_COLUMNS",
    "Run",
    "RunInfo",
    "RunWriter",
    "check_name",
    "load_run",
    "write_atomically",
]

FORMAT = 1
"""Version of the run folder's layout; raised when an old reader would misread a new folder."""

TOKEN_COLUMNS: dict[str, str] = {
    "sample_id": "The sample in samples.csv.",
    "new_token": "Index of the new token, from 1.",
    "elapsed_s": "Seconds from the start of generate() until the token was on the host.",
}

_PANDAS_TYPES = {str: "str", int: "Int64", float: "float64", bool: "boolean"}


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """run.json: what was planned, where it ran and how it ended.

    Attributes:
        state: `running`, `finished` or `interrupted`. A run that is `running` and that nobody
            works on was killed.
        plan: the keys of the plan as resolved.
        cases: the grid, each case with its id and all its fields.
        notes: what a reader should know, such as memory that could not be read.
    """

    format: int = FORMAT
    name: str
    state: str
    kvbench: str
    started_at: str
    ended_at: str | None = None
    command: tuple[str, ...] = ()
    plan: dict[str, Any] = field(default_factory=dict)
    cases: tuple[dict[str, Any], ...] = ()
    environment: Environment
    notes: tuple[str, ...] = ()


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
            raise UserError(
                f"{path} exists, and a run is never overwritten: choose another --name or --out."
            ) from error
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


@dataclass(frozen=True)
class Run:
    """A run that was read: `info` from run.json, `samples` and tables from the CSV files."""

    path: Path
    info: RunInfo
    samples: tuple[Sample, ...]

    @cached_property
    def samples_table(self) -> pd.DataFrame:
        """samples.csv as a table, a row per sample, with nullable types."""
        import pandas as pd

        columns = columns_of(Sample)
        return pd.DataFrame(
            {
                c.name: pd.Series(
                    [getattr(s, c.name) for s in self.samples], dtype=_PANDAS_TYPES[c.kind]
                )
                for c in columns
            }
        )

    @cached_property
    def tokens_table(self) -> pd.DataFrame:
        """tokens.csv as a table: sample_id, new_token, elapsed_s."""
        import pandas as pd

        path = self.path / "tokens.csv"
        try:
            return pd.read_csv(
                path, dtype={"sample_id": "str", "new_token": "int64", "elapsed_s": "float64"}
            )
        except FileNotFoundError as error:
            raise UserError(f"{path}: not there, so there are no token times.") from error
        except ValueError as error:
            raise UserError(f"{path}: not a table of token times: {error}.") from error


def load_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: there is no run there, it is of a newer format, or a value in samples.csv is
            wrong; the sentence names the line and the column.
    """
    path = Path(path)
    info = _load_info(path)
    return Run(path, info, tuple(_load_samples(path / "samples.csv")))


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


def _open_csv(path: Path, header: Sequence[str]) -> IO[str]:
    file = path.open("x", encoding="utf-8", errors="backslashreplace", newline="")
    _append(file, [header])
    return file


def _append(file: IO[str], rows: Iterable[Iterable[Any]]) -> None:
    # One write per call and fsync, so that a later crash, of the machine too, loses nothing.
    csv.writer(file).writerows([to_text(value) for value in row] for row in rows)
    file.flush()
    os.fsync(file.fileno())


def _load_info(path: Path) -> RunInfo:
    file = path / "run.json"
    try:
        keys = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: not a run folder, there is no run.json in it.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read: {error}.") from error
    version = keys.get("format") if isinstance(keys, Mapping) else None
    if version != FORMAT:
        raise UserError(f"{file}: format {version!r}; this kvbench reads {FORMAT}.")
    try:
        return TypeAdapter(RunInfo).validate_python(keys)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: {where}: {first['msg']}.") from error


def _load_samples(path: Path) -> Iterable[Sample]:
    names = [c.name for c in columns_of(Sample)]
    adapter = TypeAdapter(Sample)
    # The default of 128 KiB is short for a prompt; the column has what was written, however long.
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in names if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} line 1: the column {missing[0]} is missing.")
            for row in reader:
                yield _sample(adapter, row, f"{path} line {reader.line_num}")
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there, so there are no samples.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table in CSV: {error}.") from error


def _sample(adapter: TypeAdapter[Sample], row: Mapping[str, Any], where: str) -> Sample:
    if None in row or None in row.values():
        raise UserError(f"{where}: the row has not as many values as the header has columns.")
    try:
        return adapter.validate_python({k: v for k, v in row.items() if v != ""})
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        raise UserError(
            f"{where}, column {name}: {row.get(str(name))!r} is not right: {first['msg'].lower()}."
        ) from error
