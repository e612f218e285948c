"""`kvbench runs`: list the runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.options import Debug, Format

__all__ = ["runs"]


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that contains run folders.")] = Path(
        "results"
    ),
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """List the runs in a folder, latest first: model, devices, cases, date and state."""
    from kvbench import console
    from kvbench.records.index import list_runs

    console.check_format(output)
    console.show_runs(folder, list_runs(folder), output)
