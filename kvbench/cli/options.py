"""Options that the commands share, described where plans describe their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kvbench.plan.options import DESCRIPTIONS

__all__ = ["Debug", "Format", "given", "listed", "option", "plan_option"]


def plan_option(key: str, *names: str) -> Any:
    """The option for a key of a plan: `max_new_tokens` is `--max-new-tokens`."""
    return typer.Option(*names, help=DESCRIPTIONS[key], show_default=False)


def option(help_text: str, *names: str) -> Any:
    """An option that is not a key of a plan."""
    return typer.Option(*names, help=help_text, show_default=False)


def listed(values: Sequence[str] | None) -> list[str]:
    """Values given in several options, or in one with commas between them."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


Format = Annotated[str, option("table, csv, json or markdown.", "--format", "-o")]
Debug = Annotated[bool, option("Show the traceback of an error.", "--debug")]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given: the others leave the YAML file and the defaults alone."""
    return {key: value for key, value in options.items() if value not in (None, [], ())}
