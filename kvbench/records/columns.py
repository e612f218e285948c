"""A column is one field of one record: its type, its unit and its description, said once."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

__all__ = ["Amount", "Column", "Count", "Number", "Seconds", "column", "columns_of", "to_text"]

# What a value that is read may be: a table that was edited by hand is refused, not believed.
Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Column:
    """One column of a table: `kind` is `str`, `int`, `float` or `bool`; `unit` may be empty."""

    name: str
    kind: type
    optional: bool
    unit: str
    description: str


def column(description: str, *, unit: str = "", default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is a column, with what the documentation says of it."""
    return dataclasses.field(default=default, metadata={"unit": unit, "description": description})


def columns_of(record: type) -> tuple[Column, ...]:
    """The columns of a record class, in order."""
    hints = typing.get_type_hints(record)
    return tuple(
        Column(
            field.name,
            *_kind(hints[field.name]),
            field.metadata["unit"],
            field.metadata["description"],
        )
        for field in dataclasses.fields(record)
    )


def to_text(value: Any) -> str:
    """A value as it stands in CSV: null is empty, a flag is true or false, a float round-trips."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _kind(hint: Any) -> tuple[type, bool]:
    # `Stage | None` is a typing.Union, `int | None` a types.UnionType.
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    optional = union and type(None) in typing.get_args(hint)
    if optional:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        hint = str
    return hint, optional
