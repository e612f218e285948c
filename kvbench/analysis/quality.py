"""Add the quality of lossy strategies to their cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from kvbench.analysis.summary import CaseSummary
from kvbench.plan.axes import STRATEGY_AXES, values_of
from kvbench.records.quality import Quality, latest_qualities

__all__ = ["with_quality"]


def with_quality(cases: Sequence[CaseSummary], rows: Iterable[Quality]) -> tuple[CaseSummary, ...]:
    """Return the cases with the quality of their strategy on their model, if known."""
    known = latest_qualities(rows)
    return tuple(
        dataclasses.replace(case, **_fields(known.get(values_of(case, STRATEGY_AXES))))
        for case in cases
    )


def _fields(row: Quality | None) -> dict[str, Any]:
    if row is None:
        return {}
    found, without = row.needles_found, row.baseline_needles_found
    return {
        "kl_divergence": row.kl_divergence,
        "top1_agreement": row.top1_agreement,
        "perplexity": row.perplexity,
        "perplexity_ratio": row.perplexity_ratio,
        "perplexity_ratio_high": row.perplexity_ratio_high,
        "token_agreement": row.token_agreement,
        "needles_found_ratio": None if found is None or not without else found / without,
    }
