"""`kvbench verify`: check that cached generation matches the no-cache baseline."""

from __future__ import annotations

from typing import Annotated

import typer

from kvbench.cli.options import (
    AxisKeys,
    Debug,
    Format,
    axis_options,
    given,
    option,
    plan_option,
)
from kvbench.plan.axes import STRATEGY_AXES

__all__ = ["verify"]


@axis_options(STRATEGY_AXES[1:])
def verify(
    model: Annotated[
        str,
        typer.Argument(help="Built-in architecture, hub id, or local folder.", show_default=False),
    ],
    axes: AxisKeys | None = None,
    max_new_tokens: Annotated[
        int, option("New tokens to compare, per sequence.", "--max-new-tokens", "-n")
    ] = 32,
    generations: Annotated[
        int, option("Consecutive generations for the leak check.", "--generations")
    ] = 6,
    seed: Annotated[str | None, plan_option("seed")] = None,
    trust_remote_code: Annotated[
        bool | None, plan_option("trust_remote_code", "--trust-remote-code")
    ] = None,
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """Check that a cache changes nothing but time: tokens, logits, shapes, leaks.

    The logits decide the verdict, in float32 for every dtype: the same tokens, step by step through
    the cache and in one forward pass without it.

    Exit codes: 0 no check failed, 1 a check failed, 2 wrong usage, 130 interrupted. A strategy that
    cannot run here is not verified; that does not count as a failure.
    """
    from kvbench import api, console
    from kvbench.plan.plan import Plan
    from kvbench.records.check import failed

    keys = given(
        {
            **(axes or {}),
            "seed": seed,
            "trust_remote_code": trust_remote_code,
        }
    )
    console.check_format(output)
    with console.progress(stderr=output != "table") as view:
        checks = api.verify(
            # Token ids in place of a text prompt: a folder may have no tokenizer.
            Plan.parse({"model": [model], "prompt_tokens": 8, "max_new_tokens": 8} | keys),
            max_new_tokens=max_new_tokens,
            generations=generations,
            listener=view,
        )
    console.show_checks(checks, output)
    raise typer.Exit(1 if failed(checks) else 0)
