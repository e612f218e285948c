"""The command-line program: its commands, errors and exit codes."""

from __future__ import annotations

import codecs
import contextlib
import platform
import shlex
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import kvbench
from kvbench.cli.caches import caches
from kvbench.cli.compare import compare
from kvbench.cli.configs import configs
from kvbench.cli.env import env
from kvbench.cli.estimate import estimate
from kvbench.cli.export import export
from kvbench.cli.fit import fit
from kvbench.cli.inspect import inspect
from kvbench.cli.models import models
from kvbench.cli.probe import probe
from kvbench.cli.quality import quality
from kvbench.cli.report import report
from kvbench.cli.runs import runs
from kvbench.cli.show import show
from kvbench.cli.sweep import sweep
from kvbench.cli.verify import verify
from kvbench.errors import UserError, one_line
from kvbench.text import clip, printable

__all__ = ["app", "main"]


class _Group(TyperGroup):
    """The command group; it quotes mistyped input on one line, clipped."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the options before the command."""
        with _clipped_usage_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the options of the command, and run it."""
        with _clipped_usage_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _clipped_usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Checked by its fields: some releases of typer use click's class, others their own.
        if hasattr(error, "exit_code") and isinstance(getattr(error, "message", None), str):
            error.message = one_line(error.message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="kvbench",
    cls=_Group,
    help="Measure what the KV cache gains and what it costs: generation with and without it.",
    no_args_is_help=True,
    add_completion=False,
    # Use plain help: the imports for drawing boxes take longer than everything else help needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(sweep)
app.command()(report)
app.command()(compare)
app.command()(show)
app.command()(export)
app.command()(runs)
app.command()(verify)
app.command()(quality)
app.command()(inspect)
app.command()(models)
app.command()(caches)
app.command()(configs)
app.command()(env)
app.command()(estimate)
app.command()(fit)
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
    """Declare the options before the command; each acts in its own callback."""


def main(arguments: list[str] | None = None) -> None:
    """Run the program.

    Exit codes: 0 success, 1 a case or kvbench itself failed, 2 usage error, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _replace_what_cannot_be_encoded()
    try:
        app(args=arguments, prog_name="kvbench")
    except (UserError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(_wrapped(f"kvbench: {_sentence(error)}"), file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if "--debug" in arguments:
            raise
        print(f"kvbench: {_last_resort(error, arguments)}", file=sys.stderr)
        sys.exit(1)


def _replace_what_cannot_be_encoded() -> None:
    """Escape characters that the terminal cannot encode, so a model's name cannot end a sweep."""
    for stream in (sys.stdout, sys.stderr):
        # A closed stream is None; a stream that a program installed may not be a text file.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="kvbench")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what an encoding lacks in ASCII: a dash, a block of a bar; else a question mark."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(character, "?") for character in lacking), error.end


_IN_ASCII = {
    "\N{EN DASH}": "-",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{FULL BLOCK}": "#",
    # The end of a bar: seven eighths of a block down to one.
    **dict.fromkeys("▉▊▋▌▍▎▏", ""),
}


codecs.register_error("kvbench", _plain)


def _wrapped(text: str) -> str:
    """Return a sentence broken between words where standard error is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, OSError):
        # For a full disk or a read-only folder, the system's own message is clear.
        where = f"{error.filename}: " if error.filename else ""
        return str(UserError(f"{where}{error.strerror or error}.", kind="unreadable"))
    return str(error)


def _last_resort(error: Exception, arguments: Sequence[str]) -> str:
    """Keep the traceback of an internal error in a file, and report its path in one sentence."""
    what = printable(f"{type(error).__name__}: {clip(error, 200)}".rstrip())
    head = f"kvbench {kvbench.__version__}, Python {platform.python_version()}"
    command = clip(shlex.join(arguments), 2000)
    text = f"{head}\nkvbench {command}\n\n{''.join(traceback.format_exception(error))}"
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            errors="backslashreplace",
            prefix="kvbench-error-",
            suffix=".txt",
            delete=False,
        ) as file:
            file.write(text)
    except OSError:
        return f"internal error ({what}); run with --debug for the traceback, and please report it."
    return f"internal error ({what}); the traceback is in {file.name}, please report it."
