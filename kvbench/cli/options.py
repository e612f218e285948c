"""Options that the commands share; their help comes from the keys of a plan."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer

from kvbench.plan.axes import AXES, KEYS
from kvbench.plan.options import DESCRIPTIONS
from kvbench.report.records import FORMATS

__all__ = [
    "BASELINE_OPTION",
    "FORMAT_LIST",
    "AxisKeys",
    "Debug",
    "Format",
    "axis_options",
    "given",
    "listed",
    "option",
    "own_parameter",
    "plan_option",
]

AxisKeys = dict[str, Any]
"""The values of the options that `axis_options` added, by key."""


def plan_option(key: str, *names: str) -> Any:
    """Return the option for a key of a plan: `max_new_tokens` is `--max-new-tokens`."""
    return typer.Option(*names, help=DESCRIPTIONS[key], show_default=False)


def option(help_text: str, *names: str) -> Any:
    """Return an option that is not a key of a plan."""
    return typer.Option(*names, help=help_text, show_default=False)


def listed(values: Sequence[str] | None) -> list[str]:
    """Return the values given in several options, or in one option separated by commas."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


FORMAT_LIST = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"

Format = Annotated[str, option(f"{FORMAT_LIST}.", "--format", "-o")]
BASELINE_OPTION = option(
    "Cache strategy to compare the others with, in speedups, sentences and charts; by default off."
)

Debug = Annotated[bool, option("Show the traceback of an error.", "--debug")]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given; others leave the YAML file and the defaults alone."""
    return {key: value for key, value in options.items() if value not in (None, [], ())}


def axis_options(
    keys: Iterable[str], *, listed: bool = True, **own: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces the parameter `axes` with options for the axes of a case.

    The command is called with their values in `axes`, by key of a plan.

    Args:
        keys: the keys of a plan that set the axes.
        listed: whether an option may be given several times.
        own: parameters of this command that replace those of some keys, by key.
    """
    names = tuple(keys)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        added = {name: own.get(name) or _axis_parameter(name, listed) for name in names}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += added.values() if parameter.name == "axes" else [parameter]

        @functools.wraps(command)
        def run(**options: Any) -> None:
            command(axes={name: options.pop(name) for name in added}, **options)

        # typer reads the options from both.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def own_parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """Return a parameter of a command in the form that `axis_options` takes."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _axis_parameter(key: str, listed: bool) -> inspect.Parameter:
    (axis,) = (axis for axis in AXES.values() if KEYS[key] in axis.keys)
    value: Any = list[str] if listed and not axis.single else str
    names = (f"--{key.replace('_', '-')}", KEYS[key].short) if KEYS[key].short else ()
    return own_parameter(key, Annotated[value | None, plan_option(key, *names)], None)
