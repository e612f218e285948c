"""`kvbench estimate`: compute what a generation should cost, from a model's configuration alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    cache: Annotated[
        list[str] | None,
        option(
            "Cache strategies to include, with parameters as in kvbench sweep, or all; by default "
            "a selection that covers each kind.",
            "--cache",
            "-c",
        ),
    ] = None,
    device_memory: Annotated[
        str | None,
        option(
            "Memory of the device, such as 80GiB; shows what fits with each strategy. free: what "
            "is free now on the given device of this machine, or on the default one."
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        option(
            "Device for the lower bounds: a published GPU such as 'H100 PCIe' or L4, or a device "
            "probed on this machine, such as cpu. Default: all probed devices and three common "
            "GPUs.",
            "--device",
            "-d",
        ),
    ] = None,
    output: Format = "table",
    chart: Annotated[
        Path | None, option("Also plot memory against length, to a .png or .svg file.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Estimate what a generation costs with each cache strategy, without running it.

    Bytes of the cache and the weights, FLOPs, the lower bound of the time on a device and the
    expected speedup, with the formula and its numbers. Then each cache strategy: what it attends
    to, allocates and needs, in which memory, its lower bounds, and how large a batch or context
    fits. Needs no weights, and no torch for families with formulas. For other models known to
    Transformers, the cache size is read from the model itself, built without weights: this takes a
    few seconds and gives no FLOPs or lower bounds.

    Exit codes: 0 estimated, 2 wrong usage or an unreadable model.
    """
    from kvbench import console
    from kvbench.caches import expand, strategy
    from kvbench.models.config_file import find_config
    from kvbench.theory.estimate import Work, max_positions
    from kvbench.theory.estimate import estimate as work_out
    from kvbench.theory.peaks import rates_named

    console.check_format(output)
    caches = tuple(strategy(name).name for name in expand(listed(cache)))
    config = find_config(model)
    architecture = _architecture(config)
    memory = None if device_memory is None else _memory(device_memory, listed(device))
    found = work_out(
        model,
        architecture,
        Work(batch=batch_size, prompt_tokens=prompt_tokens, new_tokens=max_new_tokens, dtype=dtype),
        rates=rates_named(listed(device)),
        memory_bytes=memory,
        max_positions=max_positions(config) or architecture.max_positions,
        caches=caches or _SHOWN,
    )
    if chart is not None:
        # Imported late: matplotlib and the chart modules take longer to import than the estimate
        # itself.
        from kvbench.report.figures.estimate import write_estimate_chart

        write_estimate_chart(architecture, found, chart)
    console.show_estimate(found, output, by_strategy=bool(caches))


_SHOWN = (
    "off",
    "dynamic",
    "static",
    "offloaded",
    "quantized:backend=fp8",
    "quantized:backend=quanto",
    "window",
)
"""The strategies that are covered if none is named: one of each kind of cost."""


def _memory(text: str, devices: Sequence[str]) -> int:
    """Return the given memory, or what is free now on a device of this machine."""
    from kvbench.device_kinds import is_device_name
    from kvbench.theory.estimate import parse_bytes

    if text != "free":
        return parse_bytes("--device-memory", text)
    # Only here: what starts a worker takes longer to import than the estimate takes.
    from kvbench.api import free_bytes

    return free_bytes(next(filter(is_device_name, devices), None))


def _architecture(config: Mapping[str, Any]) -> Architecture:
    from kvbench.theory.architecture import FAMILIES, Architecture, family_of

    if family_of(config) in FAMILIES:
        return Architecture.from_config(config)
    # Only here: what starts a worker takes longer to import than the estimate takes.
    from kvbench.api import read_architecture

    return read_architecture(config)
