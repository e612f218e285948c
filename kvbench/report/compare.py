"""Comparisons of runs: which sides there are, as text in several formats, and as a chart."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvbench.analysis.compare import (
    AXES,
    Comparison,
    Rule,
    Side,
    Unmatched,
    compare,
    mean_ratio,
)
from kvbench.errors import UserError, did_you_mean
from kvbench.records.changes import environment_changes
from kvbench.records.columns import to_text
from kvbench.records.files import write_atomically
from kvbench.records.run import Run
from kvbench.report.figures import to_bytes
from kvbench.report.figures.ratios import ratio_chart
from kvbench.report.markdown import markdown_table
from kvbench.report.table import Table
from kvbench.report.units import seconds, significant
from kvbench.strategies import BASELINE

__all__ = [
    "Result",
    "compare_runs",
    "comparison_table",
    "parse_share",
    "regressions",
    "render",
    "write_chart",
]


@dataclass(frozen=True)
class Result:
    """What was compared.

    Attributes:
        by: the axis that differs between the sides.
        differences: what is otherwise between the machines of the runs, as lines.
        rows: a row per matched case.
        unmatched: what stands on one side only.
        threshold: the share from which on a ratio counts.
    """

    by: str
    differences: tuple[str, ...]
    rows: tuple[Comparison, ...]
    unmatched: tuple[Unmatched, ...]
    threshold: float


def compare_runs(runs: Sequence[Run], by: str | None = None, threshold: float = 0.05) -> Result:
    """Compare the first of several runs with the others, or the values of an axis.

    Raises:
        UserError: there is no such axis, or nothing on it to compare.
    """
    by = by or "run"
    if by not in AXES:
        raise UserError(f"--by: no axis '{by}'; known: {', '.join(AXES)}{did_you_mean(by, AXES)}")
    sides = _sides(runs, by)
    if len(sides) < 2:
        raise UserError(_nothing(runs, by))
    rows: list[Comparison] = []
    unmatched: list[Unmatched] = []
    for other in sides[1:]:
        more, left = compare(sides[0], other, by, Rule(threshold))
        rows += more
        unmatched += [one for one in left if one not in unmatched]
    return Result(by, _differences(runs), tuple(rows), tuple(unmatched), threshold)


def comparison_table(result: Result) -> Table:
    """The rows as text, the geometric mean last; what is the same in each row is left out."""
    shown = [column for column in _COLUMNS if column.shown(result.rows)]
    rows = [tuple(column.cell(row) for column in shown) for row in result.rows]
    mean = mean_ratio(result.rows)
    if mean is not None and len(rows) > 1:
        name = {shown[0].head: "geometric mean", "ratio (95 %)": significant(mean)}
        rows.append(tuple(name.get(column.head, "") for column in shown))
    sides = " | ".join(dict.fromkeys(f"A: {row.a}, B: {row.b}" for row in result.rows))
    caption = (
        f"{sides}. Ratio: median time of B over that of A, with its 95 % bootstrap interval; below "
        "1, B is faster."
    )
    if any(row.verdict for row in result.rows):
        caption += (
            f" Verdict: past {result.threshold:.0%} and p < 0.01 by an exact Mann-Whitney test, "
            "corrected over the rows."
        )
    return Table(
        tuple(column.head for column in shown),
        tuple(rows),
        tuple(column.numeric for column in shown),
        caption,
    )


def render(result: Result, output: str) -> str | None:
    """The comparison as `csv`, `md` or `json`; None for `table`, which is the terminal's.

    Raises:
        UserError: there is no such format.
    """
    if output == "table":
        return None
    if output not in _OUTPUTS:
        known = ["table", *_OUTPUTS]
        hint = did_you_mean(output, known)
        raise UserError(f"--format: no format '{output}'; known: {', '.join(known)}{hint}")
    return _OUTPUTS[output](result)


def regressions(result: Result, slower: float | None, more_memory: float | None) -> list[str]:
    """Why a comparison is to fail, a line a case; empty where the limits are not given or hold."""
    lines = []
    for row in result.rows:
        if slower is not None and row.verdict == "slower" and row.ratio > 1 + slower:
            lines.append(f"slower: {_label(row)}: {significant(row.ratio)} times the time.")
        memory = row.memory_ratio
        if more_memory is not None and memory is not None and memory > 1 + more_memory:
            lines.append(f"more memory: {_label(row)}: {significant(memory)} times the memory.")
    return lines


def write_chart(result: Result, path: Path) -> None:
    """Draw the ratios with their intervals.

    Raises:
        UserError: the file is neither .png nor .svg, or there is nothing to draw.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("png", "svg"):
        raise UserError(f"--chart: '{path}' is neither a .png nor a .svg.")
    if not result.rows:
        raise UserError("--chart: no case stands on both sides, so that there is nothing to draw.")
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [_label(row) for row in result.rows]
    write_atomically(path, to_bytes(ratio_chart(result.rows, labels, result.threshold), kind))


def parse_share(name: str, text: str | None) -> float | None:
    """`5%` or `0.05` as 0.05; None stays None.

    Raises:
        UserError: it is no share of 0 or more.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text)
    if match is None:
        raise UserError(f"{name}: {text!r} is no share; write 5% or 0.05.")
    return float(match[1]) / (100 if match[2] else 1)


def _sides(runs: Sequence[Run], by: str) -> list[Side]:
    if by == "run":
        names = [run.info.name for run in runs]
        if len(set(names)) < len(names):
            names = [str(run.path) for run in runs]
        return [Side(name, run.samples) for name, run in zip(names, runs, strict=True)]
    found: dict[str, list[object]] = {}
    for run in runs:
        for sample in run.samples:
            found.setdefault(str(getattr(sample, by)), []).append(sample)
    # The uncached arm is what the others are measured against, the CPU what a GPU is.
    first = {BASELINE: 0, "cpu": 0}
    ordered = sorted(found, key=lambda value: first.get(value, 1))
    return [Side(value, tuple(found[value])) for value in ordered]  # type: ignore[arg-type]


def _nothing(runs: Sequence[Run], by: str) -> str:
    if by == "run":
        return (
            "One run alone is compared along an axis: give a second run, or --by "
            f"{', '.join(AXES[1:])}."
        )
    values = {str(getattr(sample, by)) for run in runs for sample in run.samples}
    only = f"only {values.pop()}" if values else "no sample"
    return f"--by {by}: there is {only} here, so that there is nothing to compare."


def _differences(runs: Sequence[Run]) -> tuple[str, ...]:
    first = runs[0].info
    lines: list[str] = []
    for run in runs[1:]:
        devices = {sample.device for sample in (*runs[0].samples, *run.samples)}
        for line in environment_changes(first.environment, run.info.environment, devices):
            name = f"{run.info.name}: " if len(runs) > 2 else ""
            line = line.replace(" before, ", " in A, ").removesuffix(" now") + " in B"
            lines.append(f"{name}{line}")
    return tuple(lines)


@dataclass(frozen=True)
class _Column:
    head: str
    cell: Callable[[Comparison], str]
    numeric: bool = True
    field: str | None = None

    def shown(self, rows: Sequence[Comparison]) -> bool:
        """Whether it says something: a field of the case only where it varies."""
        if self.field is None:
            return True
        values = {getattr(row, self.field) for row in rows}
        required = self.field in ("max_new_tokens",)
        return len(values) > 1 or (required and values != {None})


def _field(head: str, name: str, numeric: bool = False) -> _Column:
    return _Column(head, lambda row: _short(getattr(row, name)), numeric, name)


def _short(value: object) -> str:
    return "-" if value is None else str(value)[:40]


def _ratio(row: Comparison) -> str:
    if row.ratio_ci95_low is None or row.ratio_ci95_high is None:
        return significant(row.ratio)
    low, high = significant(row.ratio_ci95_low), significant(row.ratio_ci95_high)
    return f"{significant(row.ratio)} ({low}-{high})"


def _verdict(row: Comparison) -> str:
    if row.verdict != "unclear":
        return row.verdict or "-"
    if row.samples_needed is None:
        return "unclear"
    return f"unclear, {row.samples_needed} samples each would tell"


_COLUMNS = (
    _field("B", "b"),
    _field("model", "model"),
    _field("weights", "weights"),
    _field("device", "device"),
    _field("dtype", "dtype"),
    _field("attention", "attention"),
    _field("cache", "cache"),
    _field("prompt", "prompt"),
    _field("batch", "batch_size", True),
    _field("tokens", "max_new_tokens", True),
    _Column("A", lambda row: seconds(row.a_total_s)),
    _Column("time of B", lambda row: seconds(row.b_total_s)),
    _Column("samples", lambda row: f"{row.a_samples}/{row.b_samples}"),
    _Column("ratio (95 %)", _ratio),
    _Column(
        "memory", lambda row: "-" if row.memory_ratio is None else significant(row.memory_ratio)
    ),
    _Column("verdict", _verdict, numeric=False),
)


def _label(row: Comparison) -> str:
    parts = [
        row.b,
        row.model,
        row.device,
        row.dtype,
        row.cache,
        None if row.batch_size is None else f"batch {row.batch_size}",
        None if row.max_new_tokens is None else f"{row.max_new_tokens} new tokens",
    ]
    return ", ".join(part for part in parts if part)


def _csv(result: Result) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(field.name for field in dataclasses.fields(Comparison))
    writer.writerows([to_text(v) for v in dataclasses.astuple(row)] for row in result.rows)
    return buffer.getvalue()


def _markdown(result: Result) -> str:
    table = comparison_table(result)
    parts = [*(f"- {line}" for line in result.differences), "", markdown_table(table), ""]
    parts += [table.caption, *(f"- {_missing(one)}" for one in result.unmatched)]
    return "\n".join(parts).strip() + "\n"


def _missing(one: Unmatched) -> str:
    return f"not compared: {one.side}: {one.case}: {one.reason}"


def _json(result: Result) -> str:
    value = dataclasses.asdict(result) | {"geometric_mean": mean_ratio(result.rows)}
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


_OUTPUTS: dict[str, Callable[[Result], str]] = {"csv": _csv, "md": _markdown, "json": _json}
