"""Read tables of records: check each value against its column, and locate errors."""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kvbench.errors import UserError
from kvbench.input_file import check_regular
from kvbench.records.columns import hints_of
from kvbench.text import clip

__all__ = ["as_rows", "read_columns"]

Row = TypeVar("Row")

_CHUNK = 256
"""Rows read at a time: few enough that their text stays in the processor's cache."""


def read_columns(path: Path, record: type) -> dict[str, list[Any]]:
    """Read a table by column, in the order of the record's fields, with one value per row.

    Tables of older and newer versions are accepted: a missing optional column has its default in
    every row, and unknown columns are ignored.

    Args:
        path: a CSV file with a header.
        record: a dataclass with one field per column.

    Raises:
        UserError: the table does not exist, a required column is missing or a value is wrong; the
            message names the line and the column.
    """
    check_regular(path, "table")
    hints = hints_of(record)
    columns = [_Column(field, hints[field.name]) for field in dataclasses.fields(record)]
    found: dict[str, list[Any]] = {column.name: [] for column in columns}
    # The default of 128 KiB is too short for a prompt; accept any length that was written.
    csv.field_size_limit(sys.maxsize)
    try:
        # A spreadsheet may have added a byte-order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            missing = [column for column in columns if column.name not in header]
            for column in missing:
                if column.required:
                    raise UserError(
                        f"{path} line 1: the column {column.name} is missing.",
                        kind="no_column",
                        path=path,
                        column=column.name,
                    )
            present = [column for column in columns if column.name in header]
            numbered = _numbered(reader, len(header), path)
            while chunk := list(islice(numbered, _CHUNK)):
                lines, rows = zip(*chunk, strict=True)
                texts = dict(zip(header, zip(*rows, strict=True), strict=True))
                try:
                    for column in present:
                        found[column.name] += column.values(texts[column.name])
                except ValueError as error:
                    where = _first_wrong(lines, texts, present)
                    raise UserError(f"{path} {where}", kind="bad_row", path=path) from error
                for column in missing:
                    found[column.name] += [column.default] * len(lines)
    except FileNotFoundError as error:
        raise UserError(f"{path}: file not found.", kind="not_found", path=path) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a table in CSV: {error}.", kind="not_a_table", path=path
        ) from error
    return found


def as_rows(columns: Mapping[str, Sequence[Any]], record: type[Row]) -> tuple[Row, ...]:
    """Return the rows of a table that was read by column, as records."""
    return tuple(
        record(**dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    )


class _Column:
    """A field of a record, and how text becomes its values. Empty text is null."""

    def __init__(self, field: dataclasses.Field[Any], hint: Any) -> None:
        self.name = field.name
        self.required = field.default is dataclasses.MISSING
        self.default = field.default
        self._adapter = TypeAdapter(list[hint])

    def values(self, texts: Collection[str]) -> list[Any]:
        """Return the values of the texts. Most columns repeat few texts: each is parsed once.

        Raises:
            ValueError: a text is not a valid value of this column.
        """
        distinct = set(texts)
        if self.required and "" in distinct:
            raise ValueError("empty, but required")
        given = list(distinct - {""})
        known = dict(zip(given, self._adapter.validate_python(given), strict=True))
        known[""] = self.default
        return [known[text] for text in texts]

    def reason(self, text: str) -> str | None:
        """Return why a text is not a valid value of this column; None if it is."""
        try:
            self.values([text])
        except ValidationError as error:
            return f"{clip(text)!r} is not valid: {error.errors()[0]['msg'].lower()}"
        except ValueError as error:
            return str(error)
        return None


def _numbered(reader: Any, width: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with the line on which each ends; empty lines are not rows."""
    for values in filter(None, reader):
        line = reader.line_num
        if len(values) != width:
            raise UserError(
                f"{path} line {line}: {len(values)} values in {width} columns.{_torn(path)}",
                kind="bad_row",
                path=path,
                line=line,
            )
        yield line, values


def _torn(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        whole = file.read() == b"\n"
    mended = f"kvbench sweep --resume {path.parent} repairs it"
    return "" if whole else f" The end of the file is torn, as after a kill: {mended}."


def _first_wrong(
    lines: Iterable[int], texts: Mapping[str, Sequence[str]], columns: Iterable[_Column]
) -> str:
    """Return where the first wrong value of these rows is, and what is wrong with it."""
    found = (
        f"line {line}, column {column.name}: {reason}."
        for row, line in enumerate(lines)
        for column in columns
        if (reason := column.reason(texts[column.name][row]))
    )
    return next(found)
