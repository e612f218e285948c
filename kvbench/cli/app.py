"""The program: its commands, its errors and its exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import kvbench
from kvbench.cli.compare import compare
from kvbench.cli.env import env
from kvbench.cli.estimate import estimate
from kvbench.cli.inspect import inspect
from kvbench.cli.models import models
from kvbench.cli.probe import probe
from kvbench.cli.report import report
from kvbench.cli.runs import runs
from kvbench.cli.show import show
from kvbench.cli.sweep import sweep
from kvbench.cli.verify import verify
from kvbench.errors import UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="kvbench",
    help="Measures what the KV cache buys and what it costs: generation with and without it.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: drawing boxes would take longer to import than all else that help needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(sweep)
app.command()(report)
app.command()(compare)
app.command()(show)
app.command()(runs)
app.command()(verify)
app.command()(inspect)
app.command()(models)
app.command()(env)
app.command()(estimate)
app.command()(probe)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kvbench {kvbench.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """The options before the command; each acts in its own callback."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program. Exit codes: 0 all ok, 1 a case failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments, prog_name="kvbench")
    except (UserError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"kvbench: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, OSError):
        # A full disk or a folder that cannot be written: the system's words say it well.
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    return str(error)
