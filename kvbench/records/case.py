"""The case as stored in rows: the fields that plan/axes.py declares, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvbench.caches import strategy
from kvbench.plan.axes import CaseAxes, again
from kvbench.plan.case import Case
from kvbench.records.columns import Count, column

__all__ = ["CaseRecord", "case_columns"]


@dataclass(frozen=True, kw_only=True)
class CaseRecord(CaseAxes):
    """What rows of samples and summaries have in common. Sizes and names are never null."""

    __slots__ = ()

    prompt: str = again(CaseAxes, "prompt")
    use_cache: bool = column(
        "Transformers' flag of that name: false only for the strategy off.", after="cache"
    )
    prompt_tokens: Count | None = column(
        "Length of the prompt, padding included.", unit="tokens", default=None, after="prompt"
    )


def case_columns(case: Case) -> Mapping[str, Any]:
    """Return the values of these columns for a case that never started."""
    use_cache = strategy(case.cache).use_cache
    return {**case.columns(), "use_cache": use_cache, "prompt_tokens": case.prompt.tokens}
