"""`kvbench sweep`: measure a grid and write a run folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from kvbench.cli.options import Debug, given, option, plan_option

if TYPE_CHECKING:
    from kvbench.records.run import Run

__all__ = ["sweep"]

Texts = list[str] | None


def sweep(
    config: Annotated[
        Path | None,
        typer.Argument(help="A plan in YAML; options go over its keys.", show_default=False),
    ] = None,
    model: Annotated[Texts, plan_option("model", "--model", "-m")] = None,
    weights: Annotated[str | None, plan_option("weights")] = None,
    device: Annotated[Texts, plan_option("device", "--device", "-d")] = None,
    dtype: Annotated[Texts, plan_option("dtype")] = None,
    attention: Annotated[Texts, plan_option("attention")] = None,
    cache: Annotated[Texts, plan_option("cache", "--cache", "-c")] = None,
    use_cache: Annotated[Texts, plan_option("use_cache", "--use-cache")] = None,
    batch_size: Annotated[Texts, plan_option("batch_size", "--batch-size", "-b")] = None,
    prompt: Annotated[Texts, plan_option("prompt")] = None,
    prompt_file: Annotated[Texts, plan_option("prompt_file")] = None,
    prompt_tokens: Annotated[Texts, plan_option("prompt_tokens", "--prompt-tokens", "-p")] = None,
    max_new_tokens: Annotated[
        Texts, plan_option("max_new_tokens", "--max-new-tokens", "-n")
    ] = None,
    repeats: Annotated[str | None, plan_option("repeats", "--repeats", "-r")] = None,
    min_repeats: Annotated[str | None, plan_option("min_repeats")] = None,
    max_repeats: Annotated[str | None, plan_option("max_repeats")] = None,
    min_seconds: Annotated[str | None, plan_option("min_seconds")] = None,
    max_spread: Annotated[str | None, plan_option("max_spread")] = None,
    max_case_seconds: Annotated[str | None, plan_option("max_case_seconds")] = None,
    seed: Annotated[str | None, plan_option("seed")] = None,
    trust_remote_code: Annotated[
        bool | None, plan_option("trust_remote_code", "--trust-remote-code")
    ] = None,
    out: Annotated[Path, option("Folder that run folders are made in.")] = Path("results"),
    name: Annotated[
        str | None, option("Name of the run's folder; by default date, model and a short hash.")
    ] = None,
    dry_run: Annotated[
        bool, option("Print the cases and their count, and run nothing.", "--dry-run")
    ] = False,
    yes: Annotated[bool, option("Take a grid of more than 10,000 cases.", "--yes")] = False,
    quiet: Annotated[bool, option("Print only the final table.", "--quiet", "-q")] = False,
    as_json: Annotated[
        bool,
        option(
            "Print one JSON object per sample on standard output, all else on standard error.",
            "--json",
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure generation with and without the KV cache over a grid, and write a run folder.

    Without a file: GPT-2's architecture with random weights, 10, 50 and 100 new tokens, 3
    repeats, every device that is present; options change that one by one.

    Exit codes: 0 all cases were measured, 1 some failed, 2 wrong usage, 130 interrupted.
    """
    from kvbench import api, console
    from kvbench.plan import Plan

    keys = given(
        {
            "model": model,
            "weights": weights,
            "device": device,
            "dtype": dtype,
            "attention": attention,
            "cache": cache,
            "use_cache": use_cache,
            "batch_size": batch_size,
            "prompt": prompt,
            "prompt_file": prompt_file,
            "prompt_tokens": prompt_tokens,
            "max_new_tokens": max_new_tokens,
            "repeats": repeats,
            "min_repeats": min_repeats,
            "max_repeats": max_repeats,
            "min_seconds": min_seconds,
            "max_spread": max_spread,
            "max_case_seconds": max_case_seconds,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
        }
    )
    plan = Plan.load(config, keys)
    terminal = console.make_console(stderr=as_json)
    if dry_run:
        console.print_cases(terminal, api.plan_cases(plan, allow_many=yes))
        return
    view = console.make_view(terminal, quiet=quiet, as_json=as_json)
    with _interruptible() as interrupt:
        try:
            run = api.sweep(
                plan,
                out=out,
                name=name,
                listener=view,
                stop=interrupt,
                allow_many=yes,
                command=("kvbench", *sys.argv[1:]),
            )
        finally:
            view.close()
    console.print_run(terminal, run)
    raise typer.Exit(_exit_code(run))


def _exit_code(run: Run) -> int:
    if run.info.state == "interrupted":
        return 130
    return 1 if any(sample.status != "ok" for sample in run.samples) else 0


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks the sweep to stop after the sample in flight, the second stops it."""
    asked = False

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print(
            "\nStopping after the sample in flight; press Ctrl-C again to stop at once.",
            file=sys.stderr,
        )

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
