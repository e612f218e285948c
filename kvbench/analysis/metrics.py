"""The metrics that two sides can be compared on: one entry each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A value of each sample, where less is better.

    Attributes:
        name: as `--metric` has it.
        column: where samples.csv has it.
        field: the columns of a comparison with the medians are called `a_` and `b_` and this.
        unit: of the medians.
        label: its name at the start of a sentence.
        head: the heading of the median columns in a table.
        lower: the verdict if B has less of it.
        higher: the verdict if B has more of it.
        below: what a ratio below 1 means.
        per_token: whether it is divided by the new tokens of the batch.
        method: the column with the reading method; values are compared only within one method. None
            if there is only one method and the value is never missing.
    """

    name: str
    column: str
    field: str
    unit: str
    label: str
    head: str
    lower: Literal["faster", "less"]
    higher: Literal["slower", "more"]
    below: str
    per_token: bool = False
    method: str | None = None

    def values(self, columns: Mapping[str, Sequence[Any]]) -> list[float | None]:
        """Return the value of each row; None if it is missing or zero, since zero has no ratio."""
        found = columns[self.column]
        if not self.per_token:
            return [value or None for value in found]
        sizes = zip(columns["batch_size"], columns["max_new_tokens"], strict=True)
        return [
            value / (batch * tokens) if value else None
            for value, (batch, tokens) in zip(found, sizes, strict=True)
        ]

    def methods(self, columns: Mapping[str, Sequence[Any]]) -> Sequence[str]:
        """Return how the value of each row was read, or why it is missing."""
        if self.method is None:
            return [""] * len(columns[self.column])
        return [found or "not recorded" for found in columns[self.method]]


METRICS: dict[str, Metric] = {
    entry.name: entry
    for entry in (
        Metric(
            name="time",
            column="total_s",
            field="total_s",
            unit="s",
            label="Time",
            head="time",
            lower="faster",
            higher="slower",
            below="B is faster",
        ),
        Metric(
            name="energy",
            column="energy_j",
            field="energy_j_per_token",
            unit="J",
            label="Energy per token",
            head="energy/token",
            lower="less",
            higher="more",
            below="B takes less energy",
            per_token=True,
            method="energy_method",
        ),
    )
}
"""All metrics by name."""
