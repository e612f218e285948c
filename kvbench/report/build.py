"""Rebuild everything that is derived from the samples of runs."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from kvbench.analysis.summary import CaseSummary
from kvbench.errors import UserError, check_choice
from kvbench.media import for_csv, to_text
from kvbench.records.files import CHARTS_FOLDER, check_real_folder, write_atomically
from kvbench.records.run import Run
from kvbench.report.figures import Material, check_charts, draw_charts, write_charts
from kvbench.report.figures.ahead import images_ahead
from kvbench.report.html import report_html
from kvbench.report.markdown import summary_markdown
from kvbench.report.recommend import dumped, recommendation_json
from kvbench.report.words import chosen_baseline

__all__ = ["FORMATS", "build", "forget_report", "is_built"]

FORMATS = ("png", "svg", "html", "markdown")
_IMAGES = ("png", "svg")
_REPORT = "report.html"
_RECOMMENDATION = "recommendation.json"


def build(
    runs: Sequence[Run],
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    charts: Sequence[str] | None = None,
    baseline: str | None = None,
) -> list[Path]:
    """Write summary.csv and the given `formats` into a folder; return the paths.

    The same runs and versions of the libraries give the same bytes.

    Args:
        runs: one or more runs; several share the same axes.
        out: the folder, created if needed.
        formats: `png` and `svg` for charts, `html` for report.html, `markdown` for summary.md.
        charts: names of charts; by default all charts with data.
        baseline: the cache strategy that the others are compared with; by default no cache.

    Raises:
        UserError: a format, chart or baseline is unknown, tokens.csv is not a table of token
            times, or the folder of the charts is a link.
    """
    for name in formats:
        check_choice("--format", "format", name, FORMATS)
    check_real_folder(out / CHARTS_FOLDER)
    caches = [sample.cache for run in runs for sample in run.samples]
    material = Material(tuple(runs), chosen_baseline(baseline, caches))
    check_charts(charts or ())
    drawn = list(draw_charts(material, charts)) if set(formats) - {"markdown"} else []
    missing = set(charts or ()) - {drawing.chart.name for drawing in drawn}
    if missing and set(formats) - {"markdown"}:
        raise UserError(
            f"--chart: no data for {', '.join(sorted(missing))} in this run.",
            kind="no_chart_data",
            charts=tuple(sorted(missing)),
        )
    out.mkdir(parents=True, exist_ok=True)
    images = [name for name in _IMAGES if name in formats]
    with images_ahead(drawn, images):
        paths = _write_texts(material, out, markdown="markdown" in formats)
        page = report_html(material, drawn) if "html" in formats else None
    paths += write_charts(drawn, out / CHARTS_FOLDER, images)
    if page is not None:
        # Last: if this file exists, so do the others.
        paths.append(out / _REPORT)
        write_atomically(paths[-1], page)
    return paths


def _write_texts(material: Material, out: Path, *, markdown: bool) -> list[Path]:
    """Write summary.csv, recommendation.json if there is anything to recommend, and summary.md."""
    paths = [out / "summary.csv"]
    write_atomically(paths[0], _csv(material))
    found = material.recommendations
    chosen = out / _RECOMMENDATION
    if any(found.values()):
        paths.append(chosen)
        write_atomically(chosen, dumped(recommendation_json(*one) for one in found.items()))
    else:
        chosen.unlink(missing_ok=True)
    if markdown:
        paths.append(out / "summary.md")
        parts = (
            summary_markdown(run.info, cases, name, found[name])
            for run, (name, cases) in zip(material.runs, material.summaries.items(), strict=True)
        )
        write_atomically(paths[-1], "\n".join(parts))
    return paths


def forget_report(folder: Path) -> None:
    """Remove the marker of a finished report, because more is going to be measured."""
    (folder / _REPORT).unlink(missing_ok=True)


def is_built(folder: Path) -> bool:
    """Return whether everything derived from a run is in its folder."""
    return (folder / _REPORT).exists()


def _csv(material: Material) -> str:
    # Include the run as a column only if there are several.
    several = len(material.runs) > 1
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    names = [field.name for field in dataclasses.fields(CaseSummary)]
    writer.writerow([*(["run"] if several else []), *names])
    for name, cases in material.summaries.items():
        for case in cases:
            values = [_cell(value) for value in dataclasses.astuple(case)]
            writer.writerow([*([for_csv(name)] if several else []), *values])
    return buffer.getvalue()


def _cell(value: object) -> str:
    return for_csv(value) if isinstance(value, str) else to_text(value)
