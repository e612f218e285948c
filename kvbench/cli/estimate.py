"""`kvbench estimate`: compute what a generation should cost, from a model's configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbench.cli.options import Debug, Format, listed, option

if TYPE_CHECKING:
    from kvbench.theory.architecture import Architecture

__all__ = ["estimate"]


def estimate(
    model: Annotated[
        str,
        typer.Argument(
            help="Built-in architecture, config.json, local folder or hub id.", show_default=False
        ),
    ],
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", help="Sequences generated at once.")
    ] = 1,
    prompt_tokens: Annotated[int, typer.Option(help="Length of the prompt.")] = 6,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="New tokens per sequence.")
    ] = 1000,
    dtype: Annotated[str, typer.Option(help="Data type of weights and cache.")] = "float32",
    device_memory: Annotated[
        str | None, option("Memory of the device, such as 80GiB: what fits into it.")
    ] = None,
    device: Annotated[
        list[str] | None,
        option(
            "Whose floors: a published GPU such as 'H100 PCIe' or L4, or one probed here, such as "
            "cpu. By default all that were probed here, and three common GPUs.",
            "--device",
            "-d",
        ),
    ] = None,
    output: Format = "table",
    chart: Annotated[
        Path | None, option("Also draw memory against length, to a .png or .svg.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what a generation costs with and without the cache, before anything is run.

    Bytes of the cache and the weights, FLOPs, the least time on a device and the speed-up to be
    expected, with the formula and its numbers. Needs no weights, and no torch for the families that
    have formulas here. Of any other model that Transformers knows, the cache is read off the model
    itself, built without weights: that takes some seconds, and FLOPs and floors are not known.

    Exit codes: 0 told, 2 wrong usage or a model that cannot be read.
    """
    from kvbench import console
    from kvbench.models.config_file import find_config
    from kvbench.theory.estimate import Work, max_positions, parse_bytes
    from kvbench.theory.estimate import estimate as work_out
    from kvbench.theory.peaks import rates_named

    console.check_format(output)
    config = find_config(model)
    architecture = _architecture(config)
    memory = None if device_memory is None else parse_bytes("--device-memory", device_memory)
    found = work_out(
        model,
        architecture,
        Work(batch=batch_size, prompt_tokens=prompt_tokens, new_tokens=max_new_tokens, dtype=dtype),
        rates=rates_named(listed(device)),
        memory_bytes=memory,
        max_positions=max_positions(config) or architecture.max_positions,
    )
    if chart is not None:
        # Imported late: matplotlib and the chart modules take longer to import than the estimate
        # itself.
        from kvbench.report.figures.estimate import write_estimate_chart

        write_estimate_chart(architecture, found, chart)
    console.show_estimate(found, output)


def _architecture(config: Mapping[str, Any]) -> Architecture:
    from kvbench.theory.architecture import FAMILIES, Architecture, family_of

    if family_of(config) in FAMILIES:
        return Architecture.from_config(config)
    # Only here: what starts a worker takes longer to import than the estimate takes.
    from kvbench.api import read_architecture

    return read_architecture(config)
