"""`kvbench report`: rebuild the tables, charts and report.html of saved runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.options import BASELINE_OPTION, Debug, listed, option

__all__ = ["report"]

Texts = list[str] | None


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    out: Annotated[
        Path | None,
        option("Folder to write to; by default the run folder. Required with several runs."),
    ] = None,
    formats: Annotated[
        Texts, option("What to write: png, svg, html, markdown; by default all.", "--format", "-o")
    ] = None,
    charts: Annotated[
        Texts, option("Only this chart; repeat the option for several.", "--chart")
    ] = None,
    baseline: Annotated[str | None, BASELINE_OPTION] = None,
    debug: Debug = False,
) -> None:
    """Write summary.csv, summary.md, the charts and report.html from samples.csv and tokens.csv.

    Several runs share the same axes. Needs no GPU, no model and no torch. The output is
    byte-identical for the same run and library versions.

    Exit codes: 0 written, 2 wrong usage or a damaged run.
    """
    from kvbench import console
    from kvbench.errors import UserError
    from kvbench.records.run import load_run
    from kvbench.report.build import FORMATS, build

    if out is None and len(runs) > 1:
        raise UserError("Several runs share no folder: give --out DIR.", kind="out_needed")
    paths = build(
        [load_run(path) for path in runs],
        runs[0] if out is None else out,
        formats=listed(formats) or FORMATS,
        charts=listed(charts) or None,
        baseline=baseline,
    )
    console.print_written(console.make_console(), paths)
