"""`kvbench compare`: compare runs, or the values of an axis within one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.options import Debug, Format, option
from kvbench.plan.axes import AXES

__all__ = ["compare"]

_FIRST = ("device", "dtype", "cache")
_BY = (*_FIRST, *(name for name in AXES if name not in _FIRST))
"""The axes that cases can be compared along, the most common first."""


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders: the first is A, each other one is B. A single run needs --by.",
            show_default=False,
        ),
    ],
    by: Annotated[
        str | None,
        option(f"What to compare along: run, {', '.join(_BY[:-1])} or {_BY[-1]}; by default run."),
    ] = None,
    baseline: Annotated[
        str | None,
        option("With --by cache: the strategy to compare the others with; by default off."),
    ] = None,
    metric: Annotated[
        str, option("Metric to compare: time, or energy (joules per new token).")
    ] = "time",
    threshold: Annotated[
        str | None,
        option(
            "Ignore differences smaller than this; by default the value of --fail-on-slower, or 5%."
        ),
    ] = None,
    fail_on_slower: Annotated[
        str | None,
        option("Exit with code 1 if B is slower by more than this in any case, such as 5%."),
    ] = None,
    fail_on_more_memory: Annotated[
        str | None,
        option("Exit with code 1 if B needs more memory by more than this in any case."),
    ] = None,
    output: Format = "table",
    chart: Annotated[
        Path | None, option("Also plot the ratios with their intervals, to a .png or .svg file.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare the times and the memory of saved runs, or their energy, case by case.

    The verdict is faster or slower only if the ratio exceeds the threshold and a Mann-Whitney test,
    corrected over all rows, gives p < 0.01. It is same if the whole interval lies within the
    threshold, otherwise unclear. CPU against GPU gets no verdict. Cases found on one side only are
    listed.

    With --metric energy, ratios, intervals and verdicts (less or more) are of the energy per new
    token, where both sides read it with the same method. --fail-on-slower is always about time.

    With --fail-on-..., cases that could not be compared count as failures: a case that failed only
    in B, an unfinished run, no case in common, or a median beyond the limit with too few samples
    for any test.

    Exit codes: 0 compared, 1 a --fail-on condition was met, 2 wrong usage or a damaged run.
    """
    from kvbench import console
    from kvbench.analysis.compare import Rule
    from kvbench.records.run import load_run
    from kvbench.report.compare import (
        compare_runs,
        parse_share,
        regressions,
        write_chart,
    )

    console.check_format(output)
    slower = parse_share("--fail-on-slower", fail_on_slower)
    more_memory = parse_share("--fail-on-more-memory", fail_on_more_memory)
    given = (parse_share("--threshold", threshold), slower)
    share = next((value for value in given if value is not None), Rule().threshold)
    loaded = [load_run(path) for path in runs]
    result = compare_runs(loaded, by, share, metric, baseline)
    console.show_comparison(result, output)
    if chart is not None:
        write_chart(result, chart)
    timed = result if metric == "time" else compare_runs(loaded, by, share, baseline=baseline)
    failed = regressions(timed, slower, more_memory)
    console.print_sentences(console.make_console(stderr=True), failed)
    raise typer.Exit(1 if failed else 0)
