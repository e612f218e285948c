"""Options that the commands share, described where plans describe their keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvbench.options import DESCRIPTIONS

__all__ = ["Debug", "given", "option", "plan_option"]


def plan_option(key: str, *names: str) -> Any:
    """The option for a key of a plan: `max_new_tokens` is `--max-new-tokens`."""
    return typer.Option(*names, help=DESCRIPTIONS[key], show_default=False)


def option(help_text: str, *names: str) -> Any:
    """An option that is not a key of a plan."""
    return typer.Option(*names, help=help_text, show_default=False)


Debug = Annotated[bool, option("Show the traceback of an error.", "--debug")]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given: the others leave the YAML file and the defaults alone."""
    return {key: value for key, value in options.items() if value not in (None, [], ())}
