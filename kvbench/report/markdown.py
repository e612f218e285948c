"""Build summary.md: the answer, the table and the environment, ready to paste into an issue."""

from __future__ import annotations

from collections.abc import Sequence

from kvbench.analysis.recommend import Recommendation
from kvbench.analysis.summary import CaseSummary
from kvbench.caches import BASELINE
from kvbench.media import for_markdown
from kvbench.records.run import RunInfo
from kvbench.report.expected import expectation_sentences
from kvbench.report.flags import doubts_beside_a_table
from kvbench.report.recommend import recommendation_sentences
from kvbench.report.table import Table, failures, pair_table
from kvbench.report.words import answers, baseline_of, proofs

__all__ = ["markdown_table", "summary_markdown"]


def summary_markdown(
    info: RunInfo,
    cases: Sequence[CaseSummary],
    name: str | None = None,
    recommended: Sequence[Recommendation] = (),
) -> str:
    """Return the whole of summary.md; with several runs, `name` identifies this one."""
    table = pair_table(cases)
    parts = [
        f"# {for_markdown(name or info.name)}",
        *(for_markdown(text) for text in answers(cases)),
        *(for_markdown(text) for text in recommendation_sentences(recommended)),
        markdown_table(table),
        for_markdown(table.caption),
    ]
    doubtful = doubts_beside_a_table(cases)
    if doubtful:
        lines = "\n".join(f"- {for_markdown(line)}" for line in doubtful)
        parts.append(f"Warnings:\n\n{lines}")
    failed = failures(cases)
    if failed:
        parts.append(
            "Cases without a result:\n\n" + "\n".join(f"- {for_markdown(line)}" for line in failed)
        )
    expected = expectation_sentences(cases, info)
    if expected:
        parts.append("Expected:\n\n" + "\n".join(f"- {for_markdown(line)}" for line in expected))
    parts.append(_same_work(cases))
    parts.extend(for_markdown(sentence) for sentence in proofs(info))
    if info.state != "finished":
        parts.append(for_markdown(f"The run is not complete: it is {info.state}."))
    parts.extend(for_markdown(note) for note in info.notes)
    parts.append(_environment(info))
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table in GitHub's Markdown, padded to read well as plain text."""
    cells = [[for_markdown(cell) for cell in row] for row in (table.heads, *table.rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(table.heads))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, table.numeric, strict=True)
        )
        + " |"
        for row in cells
    ]
    rule = "|".join(
        "-" * (width + 1) + (":" if numeric else "-")
        for width, numeric in zip(widths, table.numeric, strict=True)
    )
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _same_work(cases: Sequence[CaseSummary]) -> str:
    compared = [c.same_output for c in cases if c.same_output is not None]
    if not compared:
        return ""
    name = baseline_of(cases)
    how = "with and without the cache" if name == BASELINE else f"as with {name}"
    return (
        f"Same tokens {how}: {sum(compared)} of {len(compared)} comparisons. "
        "In bfloat16 and float16 greedy tokens can diverge at near-ties."
    )


def _environment(info: RunInfo) -> str:
    env = info.environment
    software = ", ".join(
        f"{name} {env.versions[name]}"
        for name in ("kvbench", "torch", "transformers")
        if name in env.versions
    )
    used = dict.fromkeys(str(case["device"]) for case in info.cases if "device" in case)
    devices = "; ".join(f"{name}: {env.hardware(name)}" for name in used)
    threads = f", {env.threads} threads" if env.threads else ""
    day = info.started_at[:10]
    return for_markdown(f"{devices}{threads}. {software}, Python {env.python}. {day}.")
