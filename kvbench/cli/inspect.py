"""`kvbench inspect`: show what a cache does, step by step, in the shapes of real tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kvbench.cli.options import (
    FORMAT_LIST,
    AxisKeys,
    Debug,
    axis_options,
    given,
    option,
    own_parameter,
    plan_option,
)
from kvbench.plan.axes import MODEL_AXES

if TYPE_CHECKING:
    from kvbench.records.inspection import Inspection

__all__ = ["inspect"]


@axis_options(
    MODEL_AXES[1:],
    listed=False,
    device=own_parameter(
        "device", Annotated[str, option("cpu, cuda, cuda:1, ...", "--device", "-d")], "cpu"
    ),
)
def inspect(
    model: Annotated[
        str,
        typer.Argument(help="Built-in architecture, hub id, or local folder.", show_default=False),
    ],
    prompt: Annotated[str | None, option("Prompt text.")] = None,
    prompt_tokens: Annotated[
        int | None, option("A prompt of this many fixed token ids, instead of a text.")
    ] = None,
    max_new_tokens: Annotated[
        int, option("Steps to show, one token each.", "--max-new-tokens", "-n")
    ] = 5,
    layer: Annotated[
        int,
        option("Layer whose queries, keys and values are shown, counted from 0.", "--layer", "-l"),
    ] = 0,
    cache: Annotated[
        str,
        option(
            "Cache strategy to compare with off; with --format html also several: "
            "dynamic,window:size=8.",
            "--cache",
            "-c",
        ),
    ] = "dynamic",
    axes: AxisKeys | None = None,
    batch_size: Annotated[int, option("Sequences generated at once.", "--batch-size", "-b")] = 1,
    seed: Annotated[str | None, plan_option("seed")] = None,
    trust_remote_code: Annotated[
        bool | None, plan_option("trust_remote_code", "--trust-remote-code")
    ] = None,
    output: Annotated[
        str, option(f"{FORMAT_LIST}, or html: one page to step through.", "--format", "-o")
    ] = "table",
    debug: Debug = False,
) -> None:
    """Show step by step what a model computes with and without a cache.

    Side by side: the shapes of the input ids, of Q, K and V of one layer and of the cache, the
    FLOPs and the new token, read from real tensors while the model generates. Nothing is timed.

    --format html prints one self-contained page: which positions each step computes, which keys it
    reads from the cache, and how shapes, work, and bytes grow. Use the arrow keys to step.

    Exit codes: 0 shown, 2 wrong usage, 130 interrupted.
    """
    from kvbench import api, console
    from kvbench.plan.plan import Plan

    keys = given(
        {
            "model": [model],
            "prompt": None if prompt is None else [prompt],
            "prompt_tokens": prompt_tokens,
            "cache": cache,
            **(axes or {}),
            "batch_size": batch_size,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
        }
    )
    console.check_format(output, "html")
    with console.progress(stderr=True) as view:
        plan = Plan.parse(keys)
        found: tuple[Inspection, ...]
        if output == "html":
            found = api.inspect_strategies(
                plan, max_new_tokens=max_new_tokens, layer=layer, listener=view
            )
        else:
            one = api.inspect(plan, max_new_tokens=max_new_tokens, layer=layer, listener=view)
            found = (one,)
    console.show_inspections(found, output)
