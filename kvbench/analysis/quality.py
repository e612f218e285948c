"""Add the quality of lossy strategies to their cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from kvbench.analysis.summary import CaseSummary
from kvbench.records.quality import Quality, latest_qualities

__all__ = ["with_quality"]


def with_quality(cases: Sequence[CaseSummary], rows: Iterable[Quality]) -> tuple[CaseSummary, ...]:
    """Return the cases with the quality of their strategy on their model, if known."""
    known = latest_qualities(rows)
    return tuple(dataclasses.replace(case, **_fields(known.get(_subject(case)))) for case in cases)


def _subject(case: CaseSummary) -> tuple[str, ...]:
    return (case.model, case.weights, case.device, case.dtype, case.attention, case.cache)


def _fields(row: Quality | None) -> dict[str, Any]:
    if row is None:
        return {}
    found, without = row.needles_found, row.baseline_needles_found
    return {
        "kl_divergence": row.kl_divergence,
        "top1_agreement": row.top1_agreement,
        "perplexity": row.perplexity,
        "perplexity_ratio": row.perplexity_ratio,
        "token_agreement": row.token_agreement,
        "needles_found_ratio": None if found is None or not without else found / without,
    }
