"""`kvbench export`: print the results of a run in the format of a benchmark tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.options import Debug, option
from kvbench.report.exporters import EXPORTERS

__all__ = ["export"]

_TRACKERS = "; ".join(f"{name}: for {one.description}" for name, one in EXPORTERS.items())


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    to: Annotated[
        str,
        option(f"Benchmark tracker. {_TRACKERS}."),
    ],
    debug: Debug = False,
) -> None:
    """Print the results of a run for a benchmark tracker, which follows them over many commits.

    For each case: the median time with its minimum and maximum, time to first token, memory on top
    of the model, the size of the cache, and the energy per token, where known. Less is better for
    all of them. A case without a time is left out and named on standard error.

    Exit codes: 0 printed, 2 wrong usage, a damaged run, or a run without any time.
    """
    from kvbench import console
    from kvbench.records.run import load_run
    from kvbench.report.exports import export as document
    from kvbench.report.exports import not_exported

    loaded = load_run(run)
    console.print_json_text(document(loaded, to))
    left_out = (f"Left out, not measured: {name}" for name in not_exported(loaded))
    console.print_sentences(console.make_console(stderr=True), left_out)
