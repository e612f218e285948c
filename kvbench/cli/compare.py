"""`kvbench compare`: two runs against each other, or two values of an axis inside one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.options import Debug, option

__all__ = ["compare"]


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders: the first is A, each other one B. One run needs --by.",
            show_default=False,
        ),
    ],
    by: Annotated[
        str | None,
        option(
            "What differs between the sides: run, device, dtype, cache, model, weights, attention, "
            "batch_size, prompt or max_new_tokens; by default run."
        ),
    ] = None,
    threshold: Annotated[
        str, option("A ratio counts from this far from 1 on, such as 5%.", "--threshold")
    ] = "5%",
    fail_on_slower: Annotated[
        str | None,
        option("Exit with code 1 if B is slower by more than this, such as 5%, in any case."),
    ] = None,
    fail_on_more_memory: Annotated[
        str | None,
        option("Exit with code 1 if B needs more memory by more than this in any case."),
    ] = None,
    output: Annotated[str, option("table, csv, md or json.", "--format", "-f")] = "table",
    chart: Annotated[
        Path | None, option("Also draw the ratios with their intervals, to a .png or .svg.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare the times and the memory of saved runs, case by case.

    A verdict is faster or slower only if the ratio moves past the threshold and a Mann-Whitney
    test, corrected over all rows, finds p < 0.01; same if the whole interval lies within it;
    else unclear. CPU against GPU gets no verdict. What stands on one side only is listed.

    Exit codes: 0 compared, 1 a --fail-on condition holds, 2 wrong usage or a damaged run.
    """
    from kvbench import console
    from kvbench.records.run import load_run
    from kvbench.report.compare import (
        compare_runs,
        parse_share,
        regressions,
        render,
        write_chart,
    )

    limits = {
        "ratio": parse_share("--fail-on-slower", fail_on_slower),
        "memory_ratio": parse_share("--fail-on-more-memory", fail_on_more_memory),
    }
    share = parse_share("--threshold", threshold)
    loaded = [load_run(path) for path in runs]
    result = compare_runs(loaded, by, limits["ratio"] or share or 0.05)
    text = render(result, output)
    if text is None:
        console.print_comparison(console.make_console(), result)
    else:
        print(text, end="")
    if chart is not None:
        write_chart(result, chart)
    failed = regressions(result, limits["ratio"], limits["memory_ratio"])
    console.print_sentences(console.make_console(stderr=True), failed)
    raise typer.Exit(1 if failed else 0)
