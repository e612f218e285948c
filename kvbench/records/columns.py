"""Columns: each is a field of a record whose type, unit and description are declared once."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field

from kvbench.plan.axes import AXES, CaseAxes, StrategyAxes

Record = TypeVar("Record")

__all__ = [
    "Amount",
    "Column",
    "Count",
    "Number",
    "Seconds",
    "axes_after",
    "column",
    "columns_of",
    "hints_of",
    "kinds_of",
    "nullable_axes_after",
]

# What a value in a file may be: a table edited by hand is refused, not trusted.
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


def column(
    description: str, *, unit: str = "", default: Any = dataclasses.MISSING, after: str = ""
) -> Any:
    """Return a dataclass field that is a column, with its description for the docs.

    `after` is the column that it follows, if that is not the one declared before it.
    """
    metadata = {"unit": unit, "description": description, "after": after}
    return dataclasses.field(default=default, metadata=metadata)


def axes_after(name: str) -> Callable[[type[Record]], type[Record]]:
    """Return a decorator that puts the inherited axes of a record class after the column `name`.

    A dataclass puts the fields of its bases first, but the tables have never had them there. All
    fields must be passed by keyword.
    """

    def decorate(record: type[Record]) -> type[Record]:
        bases = (CaseAxes, StrategyAxes)
        axes = _names(next(base for base in bases if issubclass(record, base)))
        fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
        order = [other for other in fields if other not in axes]
        start = order.index(name) + 1
        order[start:start] = axes
        for field in fields.values():
            if after := field.metadata.get("after"):
                order.remove(field.name)
                order.insert(order.index(after) + 1, field.name)
        record.__dataclass_fields__ = {other: fields[other] for other in order}  # type: ignore[attr-defined]
        return record

    return decorate


def nullable_axes_after(name: str) -> Callable[[type[Record]], type[Record]]:
    """Return a decorator that gives a class all axes of a case, each null by default.

    They follow the column `name`. Apply it before `dataclass`.
    """

    def decorate(record: type[Record]) -> type[Record]:
        annotations: dict[str, Any] = {}
        for own, hint in record.__annotations__.items():
            annotations[own] = hint
            if own == name:
                annotations |= {axis.name: f"{axis.kind.__name__} | None" for axis in AXES.values()}
        for axis in AXES.values():
            setattr(record, axis.name, column(axis.column, unit=axis.unit, default=None))
        record.__annotations__ = annotations
        return record

    return decorate


def hints_of(record: type) -> dict[str, Any]:
    """Return the types of a record class's columns, to check values that are read."""
    hints = typing.get_type_hints(record, include_extras=True)
    if issubclass(record, CaseAxes):
        numbers = (axis for axis in AXES.values() if axis.is_number)
        hints |= {axis.name: Annotated[int, Field(ge=axis.least)] for axis in numbers}
    return hints


def kinds_of(record: type) -> dict[str, type]:
    """Return the type of each field of a record class, null left aside."""
    hints = typing.get_type_hints(record)
    return {name: _kind(hints[name])[0] for name in _names(record)}


def columns_of(record: type) -> tuple[Column, ...]:
    """Return the columns of a record class, in order."""
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


def _names(record: type) -> list[str]:
    return [field.name for field in dataclasses.fields(record)]


def _kind(hint: Any) -> tuple[type, bool]:
    # `Stage | None` is a typing.Union, `int | None` a types.UnionType.
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    optional = union and type(None) in typing.get_args(hint)
    if optional:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        hint = str
    return hint, optional
