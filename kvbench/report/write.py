"""Everything in a run folder that is derived from its samples, made again from them."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from kvbench.analysis.summary import CaseSummary, summarise_cases
from kvbench.records.columns import to_text
from kvbench.records.run import Run
from kvbench.records.writer import write_atomically
from kvbench.report.charts import write_charts
from kvbench.report.markdown import summary_markdown

__all__ = ["write_derived"]


def write_derived(run: Run) -> list[Path]:
    """Write summary.csv, summary.md and the charts of a run; returns the paths."""
    cases = summarise_cases(run.samples)
    table, text = run.path / "summary.csv", run.path / "summary.md"
    write_atomically(table, _csv(cases))
    write_atomically(text, summary_markdown(run.info, cases))
    return [table, text, *write_charts(cases, run.info, run.path / "charts")]


def _csv(cases: tuple[CaseSummary, ...]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(field.name for field in dataclasses.fields(CaseSummary))
    writer.writerows([to_text(value) for value in dataclasses.astuple(case)] for case in cases)
    return buffer.getvalue()
