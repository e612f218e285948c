"""Show the quality of cache strategies as a table: one row per strategy and model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvbench.plan.axes import MODEL_AXES
from kvbench.records.quality import Quality
from kvbench.report.table import Table
from kvbench.report.units import significant

__all__ = ["quality_table"]

_MODEL = tuple(name for name in MODEL_AXES if name != "weights")


def quality_table(rows: Sequence[Quality]) -> Table:
    """Return the strategies as a table; the model is a column if there are several."""
    shown = [name for name in _MODEL if len({getattr(row, name) for row in rows}) > 1]
    heads = (*shown, "cache", *(head for head, _ in _COLUMNS))
    cells = tuple(
        (
            *(str(getattr(row, name)) for name in shown),
            row.cache,
            *(cell(row) for _, cell in _COLUMNS),
        )
        for row in rows
    )
    numeric = (*(False for _ in shown), False, *(head != "not measured" for head, _ in _COLUMNS))
    # Leave out empty columns.
    kept = [place for place in range(len(heads)) if {row[place] for row in cells} != {"-"}]
    return Table(
        heads=tuple(heads[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in cells),
        numeric=tuple(numeric[place] for place in kept),
        caption=_caption(rows),
    )


def _caption(rows: Sequence[Quality]) -> str:
    first = next((row for row in rows if row.reason is None), None)
    if first is None:
        return "Nothing was measured."
    return (
        f"Compared with no cache on the same model, over {first.passages} passages of "
        f"{first.text}: {first.prefill_tokens} tokens at once, then {first.steps} one at a time. "
        "KL: mean divergence of the next token's distribution, in nats. Same top-1: tokens with "
        "the same most likely next token. Same tokens: equal tokens in free continuations. "
        "Needles: hidden numbers found, out of those the model finds without a cache."
    )


def _or_dash(value: float | None, shown: Callable[[float], str]) -> str:
    return "-" if value is None else shown(value)


def _needles(row: Quality) -> str:
    if row.needles_found is None:
        return "-"
    return f"{row.needles_found} of {row.baseline_needles_found}"


_COLUMNS: tuple[tuple[str, Callable[[Quality], str]], ...] = (
    ("KL", lambda row: _or_dash(row.kl_divergence, significant)),
    ("same top-1", lambda row: _or_dash(row.top1_agreement, "{:.1%}".format)),
    ("perplexity", lambda row: _or_dash(row.perplexity, "{:.4g}".format)),
    ("without", lambda row: _or_dash(row.baseline_perplexity, "{:.4g}".format)),
    ("ratio", lambda row: _or_dash(row.perplexity_ratio, "{:.4g}x".format)),
    ("same tokens", lambda row: _or_dash(row.token_agreement, "{:.1%}".format)),
    ("parted at", lambda row: _or_dash(row.parted_at, str)),
    ("needles", _needles),
    ("not measured", lambda row: row.reason or "-"),
)
