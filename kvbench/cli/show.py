"""`kvbench show`: print the table of a saved run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.options import BASELINE_OPTION, Debug, Format

__all__ = ["show"]


def show(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    baseline: Annotated[str | None, BASELINE_OPTION] = None,
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """Print the results of a run: table, summary, small plot, failures and growth."""
    from kvbench import console
    from kvbench.records.run import load_run

    console.check_format(output)
    console.show_saved(load_run(run), output, baseline)
