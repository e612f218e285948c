"""`kvbench quality`: measure how the lossy cache strategies of a run change the output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvbench.cli.options import Debug, Format, option, plan_option

__all__ = ["quality"]


def quality(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    text: Annotated[
        Path | None,
        option("UTF-8 text file to evaluate on; by default Python's language reference."),
    ] = None,
    passages: Annotated[int, typer.Option(min=1, help="Passages of the text to evaluate.")] = 2,
    prefill: Annotated[
        int, typer.Option(min=16, help="Tokens of each passage processed at once.")
    ] = 256,
    steps: Annotated[
        int,
        typer.Option(min=1, help="Tokens of each passage then processed one by one and scored."),
    ] = 64,
    needles: Annotated[
        int, typer.Option(min=0, help="Numbers to hide in the text and ask for.")
    ] = 2,
    trust_remote_code: Annotated[
        bool, plan_option("trust_remote_code", "--trust-remote-code")
    ] = False,
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """Measure what the lossy cache strategies of a run do to the output; nothing is timed.

    Each is compared with no cache on the same text: KL divergence, top-1 agreement and perplexity
    over decoding steps, equal tokens of free continuations, and numbers hidden in the text. The
    result is added to the run as quality.csv, and its tables and report are updated.

    Exit codes: 0 measured, 2 wrong usage or a run without a lossy strategy, 130 interrupted.
    """
    from kvbench import api, console
    from kvbench.plan.texts import text_file
    from kvbench.records.quality import QualitySize

    console.check_format(output)
    with console.progress(stderr=output != "table") as view:
        rows = api.measure_quality(
            run,
            text=None if text is None else text_file(text),
            size=QualitySize(passages=passages, prefill=prefill, steps=steps, needles=needles),
            trust_remote_code=trust_remote_code,
            listener=view,
        )
    console.show_qualities(rows, output)
