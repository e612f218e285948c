"""`kvbench fit`: search for the largest batch or context that really fits in memory."""

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

__all__ = ["fit"]


@axis_options(STRATEGY_AXES[1:])
def fit(
    model: Annotated[
        str,
        typer.Argument(help="Built-in architecture, hub id, or local folder.", show_default=False),
    ],
    axes: AxisKeys | None = None,
    find: Annotated[
        str,
        option("What to increase: batch, or context (positions at the end; the prompt grows)."),
    ] = "batch",
    batch_size: Annotated[
        int, option("With --find context: sequences generated at once.", "--batch-size", "-b")
    ] = 1,
    prompt_tokens: Annotated[int, option("With --find batch: length of the prompt.")] = 128,
    max_new_tokens: Annotated[
        int, option("New tokens per sequence.", "--max-new-tokens", "-n")
    ] = 8,
    memory_limit: Annotated[
        str | None,
        option("On a CPU: memory that the measuring process may use, such as 2GiB."),
    ] = None,
    most: Annotated[
        int | None,
        option("Largest size to try; by default a batch of 4096, or the model's positions."),
    ] = None,
    case_timeout: Annotated[str | None, plan_option("case_timeout")] = None,
    seed: Annotated[str | None, plan_option("seed")] = None,
    trust_remote_code: Annotated[
        bool | None, plan_option("trust_remote_code", "--trust-remote-code")
    ] = None,
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """Find the largest batch or context that really fits, for each cache strategy.

    Starts at half the size that theory predicts, doubles it until a generation runs out of memory,
    then bisects to within a sixteenth of the largest size that fits. Each generation runs in a
    worker process, so running out of memory costs only that generation. The table also has the
    prediction of kvbench estimate. Nothing is timed, but large sizes take a long time on a CPU,
    especially without a cache.

    Exit codes: 0 found, 1 a search failed, 2 wrong usage, 130 interrupted. A strategy that cannot
    run here is not searched; that does not count as a failure.
    """
    from kvbench import api, console
    from kvbench.errors import UserError, check_choice
    from kvbench.plan.plan import Plan
    from kvbench.theory.estimate import parse_bytes

    console.check_format(output)
    check_choice("--find", "size", find, ("batch", "context"))
    if most is not None and most < 1:
        raise UserError(f"--most: {most} is too few; use at least 1.", kind="too_few")
    limit = None if memory_limit is None else parse_bytes("--memory-limit", memory_limit)
    keys = {
        "model": [model],
        "batch_size": batch_size,
        "prompt_tokens": prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "case_timeout": case_timeout,
        "seed": seed,
        "trust_remote_code": trust_remote_code,
    }
    with console.progress(stderr=output != "table") as view:
        rows = api.fit(
            Plan.parse({"cache": ["dynamic"]} | given(keys) | given(axes or {})),
            find="batch" if find == "batch" else "context",
            most=most,
            memory_limit=limit,
            listener=view,
        )
    console.show_fits(rows, output)
    raise typer.Exit(1 if any(row.status == "failed" for row in rows) else 0)
