"""Compare runs: choose the sides, and write the result as text or as a chart."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from kvbench.analysis.cases import SELDOM, ReadingOrder
from kvbench.analysis.compare import (
    BY,
    Comparison,
    Rule,
    Side,
    Unmatched,
    compare,
    least_each,
    mean_ratio,
)
from kvbench.analysis.metrics import METRICS, Metric
from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.caches import BASELINE
from kvbench.device_kinds import HOST
from kvbench.errors import UserError, check_choice
from kvbench.media import for_markdown
from kvbench.plan.axes import AXES, MODEL_AXES, TABLE_ORDER, Axis
from kvbench.records.changes import changes, environment_changes
from kvbench.records.columns import kinds_of
from kvbench.records.files import write_atomically
from kvbench.records.run import Run
from kvbench.records.sample import Sample, sample_at
from kvbench.report.figures import image_kind, to_bytes
from kvbench.report.figures.ratios import ratio_chart
from kvbench.report.markdown import markdown_table
from kvbench.report.records import Records
from kvbench.report.table import Table
from kvbench.report.units import amount, significant
from kvbench.report.words import chosen_baseline
from kvbench.text import clip, shorten

__all__ = [
    "Result",
    "compare_runs",
    "comparison_json",
    "comparison_markdown",
    "comparison_records",
    "comparison_table",
    "geometric_means",
    "parse_share",
    "regressions",
    "write_chart",
]


_LEVEL = Rule().level
_RATIO = "ratio (95 %)"


@dataclass(frozen=True)
class Result:
    """The result of a comparison.

    Attributes:
        by: the axis that differs between the sides.
        differences: differences between the machines of the runs, as lines.
        rows: one row per matched case.
        unmatched: cases found on only one side.
        threshold: the smallest relative difference that counts.
        sides: the names of the sides, A first.
        incomplete: the runs that are not finished, or were not finished when copied.
        metric: the metric of the ratios.
    """

    by: str
    differences: tuple[str, ...]
    rows: tuple[Comparison, ...]
    unmatched: tuple[Unmatched, ...]
    threshold: float
    sides: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    metric: str = "time"


def compare_runs(
    runs: Sequence[Run],
    by: str | None = None,
    threshold: float = 0.05,
    metric: str = "time",
    baseline: str | None = None,
) -> Result:
    """Compare the first of several runs with the others, or the values of an axis.

    `baseline` is the cache strategy that the others are compared with, by default `off`.

    Raises:
        UserError: the axis, metric or baseline is unknown, or has nothing to compare.
    """
    by = by or "run"
    check_choice("--by", "axis", by, BY)
    check_choice("--metric", "metric", metric, METRICS)
    sides = _sides(runs, by)
    if len(sides) < 2:
        raise UserError(_nothing(runs, by), kind="nothing_to_compare", option="--by")
    if baseline is not None:
        sides = _from(sides, by, baseline)
    _check_measured(sides, METRICS[metric])
    rows, unmatched = compare(*sides, by=by, rule=Rule(threshold), metric=metric)
    incomplete = tuple(run.info.name for run in runs if run.info.state != "finished")
    names = tuple(side.name for side in sides)
    return Result(by, _differences(runs), rows, unmatched, threshold, names, incomplete, metric)


def comparison_table(result: Result) -> Table:
    """Return the rows as text, geometric means last, without columns of one value throughout."""
    shown = [column for column in _columns(METRICS[result.metric]) if column.shown(result.rows)]
    rows = [tuple(column.cell(row) for column in shown) for row in result.rows]
    for sides, mean in geometric_means(result).items():
        if sum((row.a, row.b) == sides for row in result.rows) > 1:
            # With several sides, the name of B is in the first column.
            name = f"geometric mean, {sides[1]}" if shown[0].head == "B" else "geometric mean"
            cells = {shown[0].head: name, _RATIO: significant(mean)}
            rows.append(tuple(cells.get(column.head, "") for column in shown))
    return Table(
        tuple(column.head for column in shown),
        tuple(rows),
        tuple(column.numeric for column in shown),
        _caption(result),
    )


def geometric_means(result: Result) -> dict[tuple[str, str], float]:
    """Return the geometric mean of the ratios of each pair of sides A and B, by name."""
    found: dict[tuple[str, str], list[Comparison]] = {}
    for row in result.rows:
        found.setdefault((row.a, row.b), []).append(row)
    means = {sides: mean_ratio(rows) for sides, rows in found.items()}
    return {sides: mean for sides, mean in means.items() if mean is not None}


def comparison_records(result: Result) -> Records:
    """Return the rows of the comparison, for the formats of records."""
    rows = [dataclasses.asdict(row) for row in result.rows]
    return Records("kvbench_comparisons", rows, kinds_of(Comparison))


def comparison_json(result: Result) -> str:
    """Return the whole result as one JSON document."""
    means = [{"a": a, "b": b, "ratio": ratio} for (a, b), ratio in geometric_means(result).items()]
    value = dataclasses.asdict(result) | {"geometric_means": means}
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def comparison_markdown(result: Result) -> str:
    """Return the differences between the machines, the table, and what was not compared."""
    table = comparison_table(result)
    parts = [
        "\n".join(f"- {for_markdown(line)}" for line in result.differences),
        markdown_table(table) if result.rows else "",
        for_markdown(table.caption),
        "\n".join(f"- {for_markdown(_missing(one))}" for one in result.unmatched),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def regressions(result: Result, slower: float | None, more_memory: float | None) -> list[str]:
    """Return why a comparison should fail, one line per case; empty if no limit is exceeded.

    Cases that could not be compared count as failures: a case that failed only on side B, an
    unfinished run, no case at all, or a median past the limit with too few samples for a verdict.

    Raises:
        UserError: a limit is given for sides that can never get a verdict.
    """
    if slower is None and more_memory is None:
        return []
    rows = result.rows
    if slower is not None and rows and all(row.p_value is None for row in rows):
        raise UserError(
            "--fail-on-slower: cannot compare CPU with GPU results.",
            kind="nothing_to_compare",
            option="--fail-on-slower",
        )
    if more_memory is not None and rows and all(row.memory_ratio is None for row in rows):
        raise UserError(
            "--fail-on-more-memory: no memory was read with the same method on both sides.",
            kind="nothing_to_compare",
            option="--fail-on-more-memory",
        )
    lines = [f"not finished: {name}." for name in result.incomplete]
    if not result.rows:
        lines.append("no case was measured on both sides.")
    before = {one.case for one in result.unmatched if one.failed and one.side == result.sides[0]}
    lines += [
        f"failed: {one.side}: {one.case}: {one.reason}"
        for one in result.unmatched
        if one.failed and one.side != result.sides[0] and one.case not in before
    ]
    level = _LEVEL / max(sum(row.p_value is not None for row in rows), 1)
    for row, label in zip(rows, _labels(rows), strict=True):
        if slower is not None and row.ratio > 1 + slower and row.p_value is not None:
            times = f"{label}: {significant(row.ratio)} times the time"
            if row.p_value < _LEVEL:
                lines.append(f"slower: {times}.")
            elif _each(row) < (least := least_each(row, level)):
                what = "on each side" if row.rounds is None else "shared rounds"
                lines.append(f"too few samples to tell: {times}; needs {least} {what}.")
        memory = row.memory_ratio
        if more_memory is not None and memory is not None and memory > 1 + more_memory:
            lines.append(f"more memory: {label}: {significant(memory)} times the memory.")
    return lines


def write_chart(result: Result, path: Path) -> None:
    """Draw the ratios with their intervals.

    Raises:
        UserError: the file is neither .png nor .svg, or there is nothing to draw.
    """
    kind = image_kind("--chart", path)
    if not result.rows:
        raise UserError(
            "--chart: the sides have no case in common; nothing to plot.",
            kind="nothing_to_compare",
            option="--chart",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = _labels(result.rows)
    write_atomically(path, to_bytes(ratio_chart(result.rows, labels, result.threshold), kind))


def parse_share(name: str, text: str | None) -> float | None:
    """Parse `5%` or `0.05` as 0.05; None stays None.

    Raises:
        UserError: it is not a valid percentage of 0 or more; or it is 1 or more without a percent
            sign, which was probably forgotten.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else math.inf
    if match is None or not (match[2] or share < 1):
        raise UserError(
            f"{name}: {clip(text)!r} is not a valid percentage; use 5% or 0.05.",
            kind="not_a_share",
            name=name,
        )
    return share


def _sides(runs: Sequence[Run], by: str) -> list[Side]:
    if by == "run":
        names = [run.info.name for run in runs]
        if len(set(names)) < len(names):
            names = [str(run.path) for run in runs]
        return [Side(name, (run.columns,)) for name, run in zip(names, runs, strict=True)]
    examples = [sample for run in runs for sample in _examples(run)]
    values = {getattr(sample, by): sample for sample in examples}
    order = ReadingOrder(examples)

    def rank(value: object) -> tuple[object, ...]:
        # The baseline of a comparison is no cache, the CPU, the smallest size, or what runs did
        # before they had the axis.
        if isinstance(value, int):
            return (value,)
        if AXES[by].is_added:
            return (value != AXES[by].legacy, *AXES[by].rank(value))
        if by == "prompt":
            return (values[value].prompt_tokens or 0, value)
        return (value not in (BASELINE, HOST), *order(values[value]))

    return [
        Side(_side_name(AXES[by], value), tuple(_where(run, by, value) for run in runs))
        for value in sorted(values, key=rank)
    ]


def _side_name(axis: Axis, value: object) -> str:
    """Return the value; a number in words, such as `batch 8`."""
    return axis.phrase(value) if axis.is_number else str(value)


def _from(sides: Sequence[Side], by: str, baseline: str) -> list[Side]:
    """Return the sides, those of a cache strategy first.

    Raises:
        UserError: they are not cache strategies, or there is no such one among them.
    """
    if by != "cache":
        raise UserError(
            "--baseline names a cache strategy: give --by cache too.",
            kind="option_does_not_apply",
            option="--baseline",
        )
    name = chosen_baseline(baseline, [one.name for one in sides])
    return sorted(sides, key=lambda side: side.name != name)


def _check_measured(sides: Sequence[Side], metric: Metric) -> None:
    """Refuse a metric that side A, or all other sides, lack entirely.

    Raises:
        UserError: there is nothing to compare; the message gives the reasons from the samples.
    """
    if metric.method is None:
        # Every measured sample has this metric.
        return
    lacking = [side for side in sides if not _has(side, metric)]
    if sides[0] not in lacking and len(lacking) < len(sides) - 1:
        return
    reasons = dict.fromkeys(
        way
        for side in lacking
        for run in side.runs
        for way, value in zip(metric.methods(run), metric.values(run), strict=True)
        if value is None
    )
    names = ", ".join(side.name for side in lacking)
    raise UserError(
        f"--metric {metric.name}: nothing to compare, no sample of {names} has it "
        f"({'; '.join(reasons) or 'no samples'}).",
        kind="nothing_to_compare",
        option="--metric",
    )


def _has(side: Side, metric: Metric) -> bool:
    return any(
        value is not None and phase == "measure"
        for run in side.runs
        for value, phase in zip(metric.values(run), run["phase"], strict=True)
    )


def _examples(run: Run) -> list[Sample]:
    """Return one sample per case, with and without the length of its prompt if that is unknown."""
    cases = zip(run.columns["case_id"], run.columns["prompt_tokens"], strict=True)
    rows = {case: row for row, case in enumerate(cases)}
    return [sample_at(run.columns, row) for row in sorted(rows.values())]


def _where(run: Run, name: str, value: object) -> dict[str, list[Any]]:
    """Return the samples of a run with that value, by column."""
    chosen = [found == value for found in run.columns[name]]
    return {name: list(compress(values, chosen)) for name, values in run.columns.items()}


def _nothing(runs: Sequence[Run], by: str) -> str:
    if by == "run":
        return (
            "A single run is compared along an axis: give a second run, or --by "
            f"{', '.join(BY[1:])}."
        )
    values = {str(value) for run in runs for value in run.columns[by]}
    only = f"only {values.pop()}" if values else "no samples"
    return f"--by {by}: nothing to compare, the run has {only}."


def _differences(runs: Sequence[Run]) -> tuple[str, ...]:
    first = runs[0].info
    lines: list[str] = []
    for run in runs[1:]:
        devices = {*runs[0].columns["device"], *run.columns["device"]}
        # Everything else in a plan that changes the work also changes the case.
        seeds = ({"seed": info.plan.get("seed")} for info in (first, run.info))
        machines = environment_changes(first.environment, run.info.environment, devices)
        for change in (*changes(*seeds), *machines):
            name = f"{run.info.name}: " if len(runs) > 2 else ""
            lines.append(f"{name}{change.key}: {change.old} in A, {change.new} in B")
    return tuple(lines)


@dataclass(frozen=True)
class _Column:
    head: str
    cell: Callable[[Comparison], str]
    numeric: bool = True
    field: str | None = None

    def shown(self, rows: Sequence[Comparison]) -> bool:
        """Whether it is informative: a field of the case only if it varies."""
        if self.field is None:
            return True
        values = {getattr(row, self.field) for row in rows}
        if self.field in AXES and AXES[self.field].is_told(values):
            return True
        required = self.field in ("max_new_tokens",)
        return len(values) > 1 or (required and values != {None})


def _field(head: str, name: str, numeric: bool = False) -> _Column:
    return _Column(head, lambda row: _short(getattr(row, name)), numeric, name)


def _short(value: object) -> str:
    return "-" if value is None else shorten(str(value))


def _ratio(row: Comparison) -> str:
    if row.ratio_ci95_low is None or row.ratio_ci95_high is None:
        return significant(row.ratio)
    low, high = significant(row.ratio_ci95_low), significant(row.ratio_ci95_high)
    return f"{significant(row.ratio)} ({low}-{high})"


def _each(row: Comparison) -> int:
    """Return the number of samples on each side, or of shared rounds."""
    return min(row.a_samples, row.b_samples) if row.rounds is None else row.rounds


def _samples(row: Comparison) -> str:
    """Return a text such as `6/7`; with cold samples and shared rounds where they matter."""
    text = f"{row.a_samples}/{row.b_samples}"
    if row.a_cold_starts or row.b_cold_starts:
        text += f", cold {row.a_cold_starts}/{row.b_cold_starts}"
    if row.rounds is not None and row.rounds < max(row.a_samples, row.b_samples):
        text += f", {row.rounds} shared"
    return text


def _verdict(row: Comparison) -> str:
    if row.verdict != "unclear":
        return row.verdict or "-"
    if row.samples_needed is None:
        return "unclear"
    least = "at least " if row.ratio_ci95_low is None else ""
    what = "samples each" if row.rounds is None else "shared rounds"
    return f"unclear, needs {least}{row.samples_needed} {what}"


_CASE_COLUMNS = (
    _field("B", "b"),
    *(_field(axis.head, axis.name, axis.is_number) for axis in TABLE_ORDER),
)


def _columns(metric: Metric) -> tuple[_Column, ...]:
    """Return the columns that a comparison of this metric shows."""

    def median_of(side: str) -> _Column:
        name = f"{side}_{metric.field}"
        head = f"{metric.head} of {side.upper()}"
        return _Column(head, lambda row: amount(getattr(row, name), metric.unit))

    return (
        *_CASE_COLUMNS,
        median_of("a"),
        median_of("b"),
        _Column("samples", _samples),
        _Column(_RATIO, _ratio),
        _Column(
            "memory", lambda row: "-" if row.memory_ratio is None else significant(row.memory_ratio)
        ),
        _Column("verdict", _verdict, numeric=False),
    )


def _labels(rows: Sequence[Comparison]) -> list[str]:
    """Return the label of each row: fields that seldom differ are named only if they do."""
    differing = [axis for axis in SELDOM if axis.is_told(getattr(row, axis.name) for row in rows)]
    # The fields that define the model come first.
    always = [axis for axis in AXES.values() if not axis.seldom]
    model = [axis for axis in always if axis.name in MODEL_AXES]
    shown = (*model, *differing, *(axis for axis in always if axis not in model))
    return [_label(row, shown) for row in rows]


def _label(row: Comparison, shown: Iterable[Axis]) -> str:
    values = ((axis, getattr(row, axis.name)) for axis in shown)
    parts = [row.b, *(axis.short(value) for axis, value in values if value is not None)]
    return ", ".join(part for part in parts if part)


def _missing(one: Unmatched) -> str:
    return f"not compared: {one.side}: {one.case}: {one.reason}"


def _caption(result: Result) -> str:
    if not result.rows:
        return ""
    sides = " | ".join(f"A: {a}, B: {b}" for a, b in geometric_means(result))
    paired = any(row.rounds is not None for row in result.rows)
    how = (
        f"estimated within rounds, 95 % CI from {MIN_FOR_INTERVAL} rounds; it can differ from the "
        "ratio of the medians"
        if paired
        else "ratio of medians, 95 % bootstrap CI"
    )
    metric = METRICS[result.metric]
    what = metric.label.lower()
    caption = f"{sides}. Ratio: {what}, B / A, {how}; below 1, {metric.below}."
    if any(row.verdict for row in result.rows):
        test = "Wilcoxon signed-rank" if paired else "Mann-Whitney"
        caption += (
            f" Verdict: beyond {100 * result.threshold:g}% and p < {_LEVEL} by an exact {test} "
            "test, Holm-corrected."
        )
    if any(row.a_cold_starts or row.b_cold_starts for row in result.rows):
        caption += " Cold samples excluded."
    if _has_estimates(result):
        caption += " method sampled: estimated from single steps, not measured in full."
    return caption


def _has_estimates(result: Result) -> bool:
    methods = {getattr(row, "method", None) for row in result.rows}
    # Along this axis, the sides are the methods.
    methods |= set(result.sides if result.by == "method" else ())
    return not methods.isdisjoint(AXES["method"].told)
