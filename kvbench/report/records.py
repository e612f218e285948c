"""Write records, such as the cases of a run, as CSV, JSON, JSON lines or SQL.

The formats that all commands share are declared here, and nowhere else.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvbench.media import for_csv, for_json, for_terminal, to_text

__all__ = ["FORMATS", "WRITERS", "Record", "Records"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Records:
    """Records of one kind.

    Attributes:
        table: the name of their SQL table.
        rows: the records, in order. A record may lack a field, or nest records.
        kinds: the types of fields, for SQL; the types of the others come from their values.
    """

    table: str
    rows: Sequence[Record]
    kinds: Mapping[str, type] = field(default_factory=dict)

    @property
    def flat(self) -> list[dict[str, Any]]:
        """The rows with a column for each field of a nested record: `flops_per_s.float32`."""
        return [dict(_flat(row)) for row in self.rows]


def _flat(record: Record, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _names(rows: Sequence[Record], kinds: Mapping[str, type]) -> list[str]:
    """Return the columns; those of a table without rows are the declared ones."""
    return list(dict.fromkeys(name for row in rows for name in row) or kinds)


def _csv(records: Records) -> str:
    rows = records.flat
    names = _names(rows, records.kinds)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> str:
    value = _scalar(value)
    return for_csv(value) if isinstance(value, str) else to_text(value)


def _scalar(value: Any) -> Any:
    """Return a list as JSON: a cell holds one value."""
    return _compact(value) if isinstance(value, (list, tuple)) else value


def _json(records: Records) -> str:
    return json.dumps(records.rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _jsonl(records: Records) -> str:
    return "".join(f"{_compact(row)}\n" for row in records.rows)


def _sql(records: Records) -> str:
    """Return the statements, in SQLite's dialect, that add the rows to a table."""
    rows = records.flat
    names = _names(rows, records.kinds)
    if not names:
        return ""
    columns = ", ".join(
        f"{_identifier(name)} {_affinity(records.kinds.get(name), (row.get(name) for row in rows))}"
        for name in names
    )
    table = _identifier(records.table)
    listed = ", ".join(map(_identifier, names))
    return "\n".join(
        (
            f"CREATE TABLE IF NOT EXISTS {table} ({columns});",
            *(
                f"INSERT INTO {table} ({listed}) VALUES "
                f"({', '.join(_literal(row.get(name)) for name in names)});"
                for row in rows
            ),
            "",
        )
    )


_AFFINITIES: dict[type, str] = {bool: "INTEGER", int: "INTEGER", float: "REAL"}


def _affinity(kind: type | None, values: Iterator[Any]) -> str:
    """Return the type of a column: as declared, or that of its values."""
    kinds = [kind] if kind else [type(value) for value in values if value is not None]
    # Numeric text in a TEXT column stays text, and any value fits a NUMERIC one.
    found = {_AFFINITIES.get(one, "TEXT") for one in kinds} or {"NUMERIC"}
    return found.pop() if len(found) == 1 else "NUMERIC"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    value = _scalar(value)
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (int, float)):
        return repr(value)
    # A zero character would end the statement, and an escape sequence would reach a terminal.
    return "'" + for_terminal(str(value)).replace("'", "''") + "'"


WRITERS: dict[str, Callable[[Records, str | None], str]] = {
    "csv": lambda records, encoding: _csv(records),
    "json": lambda records, encoding: for_json(_json(records), encoding),
    "jsonl": lambda records, encoding: for_json(_jsonl(records), encoding),
    "sql": lambda records, encoding: _sql(records),
}
"""Formats of records, by name: each turns records into text for a stream of an encoding."""

FORMATS = ("table", *sorted((*WRITERS, "markdown")))
"""Values of `--format`: those of `WRITERS`, and two that each command lays out itself."""
