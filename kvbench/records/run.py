"""Read a run: run.json and samples as typed records, and as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from kvbench.errors import UserError
from kvbench.input_file import read_regular
from kvbench.records.check import Check
from kvbench.records.columns import columns_of
from kvbench.records.contradictions import check_samples
from kvbench.records.environment import Environment
from kvbench.records.finding import Finding
from kvbench.records.quality import Quality, load_qualities
from kvbench.records.rows import as_rows, read_columns
from kvbench.records.sample import Sample
from kvbench.records.tokens import Stamps, load_stamps, load_tokens
from kvbench.text import clip

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FORMAT",
    "MAX_INFO_BYTES",
    "Resume",
    "Run",
    "RunInfo",
    "load_checks",
    "load_info",
    "load_run",
]

FORMAT = 2
"""Version of the run folder's layout; raised if an old reader would misread a new folder. A new
optional column or key does not raise it.
"""

MAX_INFO_BYTES = 256 << 20
"""The largest run.json that is written and read: some 100,000 cases with short prompts."""

_PANDAS_TYPES = {str: "str", int: "Int64", float: "float64", bool: "boolean"}


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A later start of the sweep, which continued where the previous one stopped.

    Attributes:
        kvbench: the version of kvbench that resumed the run; empty in runs that predate this field.
        environment: null if it is the run's own. Only versions up to 0.1 could resume a run on
            another machine.
        plan_changes: what was different in its plan, in words. Only versions up to 0.1 could resume
            with another plan; the run's plan is then that of its last start.
    """

    started_at: str
    kvbench: str = ""
    command: tuple[str, ...] = ()
    environment: Environment | None = None
    plan_changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """run.json: what was planned, where it ran and how it ended.

    Attributes:
        state: `running`, `finished` or `interrupted`. A run that is `running` without a process was
            killed.
        started_at: UTC time of the first start.
        ended_at: UTC time of the last end; null if the process was killed.
        plan: the resolved keys of the plan.
        cases: the grid, each case with its id and all its fields.
        configs: the configuration of each loaded model by name, as in config.json, for theory.
            Labels are left out.
        environment: the environment of the first start.
        resumes: the later starts. The column `session` counts: 0 is the first start, 1 the first
            of these.
        findings: the verification results of the strategies; empty if nothing was verified.
        notes: notes for the reader, such as memory that could not be read.
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
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment: Environment
    resumes: tuple[Resume, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def environments(self) -> tuple[Environment, ...]:
        """The environment of the first start, and those of later starts that differ."""
        return (self.environment, *(r.environment for r in self.resumes if r.environment))

    def environment_of(self, session: int) -> Environment:
        """Return the environment of a session of the run."""
        resume = self.resumes[session - 1] if session else None
        return self.environment if resume is None else resume.environment or self.environment


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    Attributes:
        path: its folder.
        info: run.json.
        columns: samples.csv by column: one value per sample in each, None for null. Use this to
            process very many samples quickly.
    """

    path: Path
    # Both would fill pages when a notebook displays a run.
    info: RunInfo = field(repr=False)
    columns: Mapping[str, Sequence[Any]] = field(repr=False)

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The rows of samples.csv."""
        return as_rows(self.columns, Sample)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The rows of verify.csv; empty if nothing was verified."""
        return load_checks(self.path)

    @cached_property
    def qualities(self) -> tuple[Quality, ...]:
        """The rows of quality.csv; empty if quality was not measured."""
        return load_qualities(self.path)

    @cached_property
    def samples_table(self) -> pd.DataFrame:
        """Return samples.csv as a table, one row per sample, with nullable types."""
        import pandas as pd

        kinds = {column.name: _PANDAS_TYPES[column.kind] for column in columns_of(Sample)}
        return pd.DataFrame(
            {name: pd.Series(list(v), dtype=kinds[name]) for name, v in self.columns.items()}
        )

    @cached_property
    def tokens_table(self) -> pd.DataFrame:
        """Return tokens.csv as a table: sample_id (categorical), new_token, elapsed_s.

        Raises:
            UserError: as `load_tokens`.
        """
        return load_tokens(self.path / "tokens.csv")

    @cached_property
    def stamps(self) -> Stamps:
        """Return tokens.csv as arrays.

        Raises:
            UserError: as `load_tokens`.
        """
        return load_stamps(self.path / "tokens.csv")


def load_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: there is no run, its format is newer than this reader, or a value in samples.csv
            is wrong or contradicts others; the message names the line and the column, or the
            sample.
    """
    path = Path(path)
    info = load_info(path)
    columns = read_columns(path / "samples.csv", Sample)
    check_samples(path / "samples.csv", columns, info.cases, 1 + len(info.resumes))
    return Run(path, info, columns)


def load_checks(path: Path) -> tuple[Check, ...]:
    """Read the verify.csv of a run folder; return nothing if there is none.

    Raises:
        UserError: a value is wrong; the message names the line and the column.
    """
    file = path / "verify.csv"
    return as_rows(read_columns(file, Check), Check) if file.exists() else ()


def load_info(path: Path) -> RunInfo:
    """Read only run.json.

    Raises:
        UserError: there is no run, its format is newer than this reader, or a value is wrong.
    """
    file = path / "run.json"
    try:
        keys = json.loads(read_regular(file, MAX_INFO_BYTES, "run.json"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path}: not a run folder (no run.json).", kind="not_a_run", path=path
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: cannot be read: {error}.", kind="unreadable", path=file
        ) from error
    version = keys.get("format") if isinstance(keys, Mapping) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(
            f"{file}: not a kvbench run: its format is {clip(repr(version))}.",
            kind="not_a_run",
            path=path,
        )
    if version > FORMAT:
        raise UserError(
            f"{file}: written by a newer kvbench (format {version}); this one reads formats up to "
            f"{FORMAT}. Upgrade kvbench to read it.",
            kind="newer_format",
            format=version,
        )
    try:
        return TypeAdapter(RunInfo).validate_python(keys)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{file}: {clip(where)}: {clip(first['msg'], 200)}.", kind="bad_run", path=file
        ) from error
