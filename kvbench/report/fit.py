"""Format what fits as a table: found by search, next to what theory predicted."""

from __future__ import annotations

from collections.abc import Sequence

from kvbench.plan.axes import AXES, STRATEGY_AXES
from kvbench.records.fit import FitResult
from kvbench.report.table import Table
from kvbench.report.units import mib, significant

__all__ = ["fit_reasons", "fit_table"]


def fit_table(rows: Sequence[FitResult]) -> Table:
    """Return one row per strategy, without columns that have one value throughout."""
    axes = [AXES[name] for name in STRATEGY_AXES]
    shown = [a for a in axes if a.name == "cache" or len({getattr(r, a.name) for r in rows}) > 1]
    heads = (*(a.head for a in shown), f"largest {rows[0].find}", "fails at", "predicted")
    heads += ("found / predicted", "needs MiB", "free MiB", "attempts")
    cells = tuple(
        (*(str(getattr(row, a.name)) for a in shown), *_cells(row), str(row.attempts))
        for row in rows
    )
    numeric = (*(False for _ in shown), *(True for _ in range(len(heads) - len(shown))))
    return Table(heads, cells, numeric, _caption(rows[0]))


def fit_reasons(rows: Sequence[FitResult]) -> list[str]:
    """Return why strategies have no result, or ended for another reason than lack of memory."""
    return [
        row.reason if row.status == "unsupported" else f"{row.cache}: {row.reason}"
        for row in rows
        if row.reason is not None
    ]


def _cells(row: FitResult) -> tuple[str, ...]:
    if row.largest is None:
        return (row.status, "-", "-", "-", "-", _mib(row.room_bytes))
    known = row.predicted and row.largest and row.status == "found"
    return (
        ("\N{GREATER-THAN OR EQUAL TO}" * (row.status == "at_most")) + f"{row.largest:,}",
        "-" if row.fails_at is None else f"{row.fails_at:,}",
        "-" if row.predicted is None else f"{row.predicted:,}",
        f"{significant(row.largest / row.predicted)}x" if known and row.predicted else "-",
        _mib(row.needed_bytes),
        _mib(row.room_bytes),
    )


def _caption(row: FitResult) -> str:
    size, limit = f"{row.max_new_tokens} new tokens", ""
    if row.find == "batch":
        size = f"{row.prompt_tokens} prompt and {size}"
    else:
        size = f"batch {row.batch_size}, {size}; context: positions in the cache at the end"
    if row.memory_limit_bytes is not None:
        limit = f", limited to {mib(row.memory_limit_bytes)} MiB"
    return (
        f"{row.model} on {row.device}, {row.dtype}{limit}; {size}. predicted: from theory, with a "
        "tenth of the free memory unused. needs: what the largest one takes in theory. free: free "
        "memory after loading the model."
    )


def _mib(size: int | None) -> str:
    return "-" if size is None else mib(size)
