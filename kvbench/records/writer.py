"""Write a run folder row by row: whatever happens next loses nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kvbench.errors import UserError
from kvbench.input_file import check_regular
from kvbench.plan.axes import MODEL_AXES, values_of
from kvbench.plan.case import ModelKey
from kvbench.records.check import Check
from kvbench.records.columns import columns_of
from kvbench.records.files import (
    CHARTS_FOLDER,
    CsvAppender,
    check_real_folder,
    cut_torn_end,
    drop_rows_but,
    write_atomically,
)
from kvbench.records.finding import Finding, findings
from kvbench.records.lock import RunLock
from kvbench.records.quality import QUALITY_FILE
from kvbench.records.run import MAX_INFO_BYTES, Resume, RunInfo, load_checks, load_info, load_run
from kvbench.records.sample import Sample, utc_now
from kvbench.records.tokens import TOKEN_COLUMNS
from kvbench.text import clip

__all__ = ["RunWriter", "check_name", "holds_run"]

_HEADERS = {
    "samples.csv": [c.name for c in columns_of(Sample)],
    "tokens.csv": list(TOKEN_COLUMNS),
    "verify.csv": [c.name for c in columns_of(Check)],
}
# Class names for classifiers: thousands of lines in some configurations.
_LABELS = frozenset({"id2label", "label2id"})
_WORKER_LOG = "worker.log"


class RunWriter:
    """Write one run folder and hold its lock. A context manager.

    Attributes:
        info: the current run.json.
        samples: the existing rows of a resumed run.
        checks: all verification checks.
        repairs: what was repaired in its files, as sentences.
    """

    def __init__(self, path: Path, lock: RunLock, info: RunInfo) -> None:
        self.path = path
        self.info = info
        self.samples: tuple[Sample, ...] = ()
        self.checks: tuple[Check, ...] = ()
        self.repairs: tuple[str, ...] = ()
        self._lock = lock
        self._discarded = False
        self._tables: dict[str, CsvAppender] = {}

    @classmethod
    def create(cls, path: Path, info: RunInfo) -> Self:
        """Create the folder of a new run.

        Raises:
            UserError: it already has a run, it is in use, or it cannot be written.
        """
        with _held(path) as lock:
            if (path / "run.json").exists():
                raise UserError(
                    f"{path}: another process has just created a run there.",
                    kind="in_use",
                    path=path,
                )
            writer = cls(path, lock, info)
            with writer._closed_on_error():
                writer._save_info()
                writer._open_tables()
        return writer

    @classmethod
    def reopen(cls, path: Path, resume: Resume, **changes: Any) -> Self:
        """Reopen a run: repair what a kill left torn, and write the new start into run.json.

        `changes` are new values for fields of RunInfo.

        Raises:
            UserError: it is in use, or cannot be read or written.
        """
        with _held(path) as lock:
            _refuse_links(path)
            info = load_info(path)
            resumes = (*info.resumes, resume)
            info = dataclasses.replace(
                info, state="running", ended_at=None, resumes=resumes, **changes
            )
            writer = cls(path, lock, info)
            with writer._closed_on_error():
                writer.repairs = _repair(path)
                writer._open_tables()
                writer.samples, writer.checks = load_run(path).samples, load_checks(path)
                writer._forget_orphans()
                writer._save_info()
        return writer

    @property
    def session(self) -> int:
        """The number of this start of the sweep."""
        return len(self.info.resumes)

    @property
    def _environment_since(self) -> int:
        """The first session of this run with the present environment."""
        here = self.info.environment_of(self.session)
        first = self.session
        while first and self.info.environment_of(first - 1) == here:
            first -= 1
        return first

    def append(self, sample: Sample, token_times: Sequence[float] = ()) -> Sample:
        """Write one sample and its per-token times, in seconds from its start; return the row.

        Raises:
            UserError: it cannot be written; earlier rows stay intact.
        """
        sample = dataclasses.replace(sample, session=self.session)
        # Tokens first: a sample in samples.csv has all of its tokens.
        rows = [(sample.sample_id, i, seconds) for i, seconds in enumerate(token_times, start=1)]
        self._write("tokens.csv", rows)
        self._write("samples.csv", [dataclasses.astuple(sample)])
        return sample

    def keep_config(self, model: str, config: Mapping[str, Any]) -> None:
        """Write a model's configuration into run.json, once.

        Raises:
            UserError: it cannot be written; earlier rows stay intact.
        """
        kept = {key: value for key, value in config.items() if key not in _LABELS}
        if self.info.configs.get(model) == kept:
            return
        self.info = dataclasses.replace(self.info, configs={**self.info.configs, model: kept})
        with self._told("run.json"):
            self._save_info()

    def append_checks(self, checks: Iterable[Check]) -> None:
        """Write verification checks.

        Raises:
            UserError: it cannot be written; earlier rows stay intact.
        """
        stamped = [dataclasses.replace(check, session=self.session) for check in checks]
        self._write("verify.csv", [dataclasses.astuple(check) for check in stamped])
        self.checks = (*self.checks, *stamped)

    def finding(self, key: ModelKey, cache: str) -> Finding | None:
        """Return the verification result of a strategy on a model; None without one here."""
        subject = (*values_of(key, MODEL_AXES), cache)
        since = self._environment_since
        for one in findings(check for check in self.checks if check.session >= since):
            if (*values_of(one, MODEL_AXES), one.cache) == subject:
                return one
        return None

    def keep_log(self, title: str, text: str) -> None:
        """Keep the last output of a lost worker, for a person to read."""
        if text.strip():
            log = self.path / _WORKER_LOG
            with (
                self._told(_WORKER_LOG),
                log.open("a", encoding="utf-8", errors="replace") as file,
            ):
                file.write(f"{title}\n{text.rstrip()}\n\n")

    def finish(self, state: str, notes: Iterable[str] = ()) -> None:
        """Write the end into run.json."""
        notes = tuple(dict.fromkeys([*self.info.notes, *notes]))
        self.info = dataclasses.replace(
            self.info,
            state=state,
            ended_at=utc_now(),
            findings=findings(self.checks),
            notes=notes,
        )
        with self._told("run.json"):
            self._save_info()

    def discard(self) -> None:
        """Remove the folder: nothing worth keeping was measured."""
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
                # Left by an exception: the measured rows exist, the rest does not.
                self.finish("interrupted")
        except UserError:
            # On a full disk the state stays unchanged, which a resume accepts as well.
            if error is None:
                raise
        finally:
            self._close_tables()
            if self._discarded:
                # Before others may write here.
                self._remove_contents()
            self._lock.release()
            if self._discarded:
                # Someone else may have started a run here since.
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def _remove_contents(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif not RunLock.owns(entry):
                entry.unlink()

    def _open_tables(self) -> None:
        for name in ("samples.csv", "tokens.csv"):
            self._table(name)

    def _close_tables(self) -> None:
        for table in self._tables.values():
            table.close()
        self._tables.clear()

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._close_tables()
            raise

    def _forget_orphans(self) -> None:
        # Tokens are written before their sample: those of a sample that never came would otherwise
        # appear twice once it is measured again.
        self._tables.pop("tokens.csv").close()
        drop_rows_but(self.path / "tokens.csv", {sample.sample_id for sample in self.samples})
        self._table("tokens.csv")

    def _table(self, name: str) -> CsvAppender:
        if name not in self._tables:
            self._tables[name] = CsvAppender(self.path / name, _HEADERS[name])
        return self._tables[name]

    def _write(self, name: str, rows: Iterable[Iterable[Any]]) -> None:
        with self._told(name):
            self._table(name).append(rows)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not (self.path / "run.json").exists() or isinstance(error, FileNotFoundError):
                # Free space would not help: there is nothing here to continue with.
                raise UserError(
                    f"{self.path / name} no longer exists: the run was removed or moved during "
                    "the measurement, so nothing more can be written.",
                    kind="run_removed",
                    path=self.path,
                ) from error
            raise UserError(
                f"{self.path / name} cannot be written: {error.strerror or error}. Earlier "
                f"results are kept; free some space and continue with --resume {self.path}.",
                kind="unwritable",
            ) from error

    def _save_info(self) -> None:
        text = json.dumps(dataclasses.asdict(self.info), indent=2, ensure_ascii=False) + "\n"
        content = text.encode("utf-8", "backslashreplace")
        if len(content) > MAX_INFO_BYTES:
            raise UserError(
                f"{self.path / 'run.json'} would be larger than {MAX_INFO_BYTES >> 20} MiB and "
                "could not be read again: use fewer cases or shorter prompts per run.",
                kind="too_large",
            )
        write_atomically(self.path / "run.json", content)


def holds_run(path: Path) -> bool:
    """Return whether a folder has a run in it. An empty one, left by a kill at the start, has none.

    Raises:
        UserError: there is something else.
    """
    if (path / "run.json").exists():
        return True
    # The remains of a run that was killed before it started.
    if path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir()):
        return False
    if path.exists() or path.is_symlink():
        raise UserError(
            f"{path} exists but is not a kvbench run: choose another --name or --out.",
            kind="not_a_run",
            path=path,
        )
    return False


def check_name(name: str) -> str:
    """Return the name of a run, if it is one plain path component.

    Raises:
        UserError: it has separators or control characters, or names a folder itself.
    """
    if not name or name in (".", "..") or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
        raise UserError(
            f"--name: {clip(name)!r} is not a valid folder name; use one such as gpt2-night_1.",
            kind="bad_name",
            name=name,
        )
    if len(name.encode()) > 200:
        raise UserError(
            "--name: longer than 200 bytes, too long for a folder name.", kind="bad_name", name=name
        )
    return name


@contextlib.contextmanager
def _held(path: Path) -> Iterator[RunLock]:
    """Create the folder if needed and hold it; release it if the block fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be created: {error.strerror}.", kind="unwritable", path=path
        ) from error
    lock = RunLock(path)
    try:
        yield lock
    except OSError as error:
        lock.release()
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}.", kind="unwritable"
        ) from error
    except BaseException:
        lock.release()
        raise


def _refuse_links(path: Path) -> None:
    """Refuse to write to a foreign folder's links, which may lead out of it, or into a pipe."""
    for name in (*_HEADERS, QUALITY_FILE, *(f"{name}.torn" for name in _HEADERS), _WORKER_LOG):
        check_regular(path / name, "file of a run")
        if (path / name).is_symlink():
            raise UserError(
                f"{path / name} is a link: replace it with the file itself to continue.",
                kind="is_a_link",
            )
    check_real_folder(path / CHARTS_FOLDER)


def _repair(path: Path) -> tuple[str, ...]:
    repairs = []
    for name in _HEADERS:
        cut = cut_torn_end(path / name) if (path / name).exists() else 0
        if cut:
            repairs.append(
                f"{path / name}: the last row was cut off when the sweep was killed; its {cut} "
                f"bytes were moved to {name}.torn, and its sample is measured again."
            )
    return tuple(repairs)
