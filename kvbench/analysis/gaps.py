"""The gaps between tokens of one generation, as the reader of a stream experiences them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["GAPS", "gaps_of"]

GAPS: Mapping[str, float] = {
    "gap_p50_s": 50,
    "gap_p90_s": 90,
    "gap_p99_s": 99,
    "gap_max_s": 100,
}
"""Columns of samples.csv, and the percentile of the gaps that each holds."""


def gaps_of(times: Sequence[float]) -> dict[str, Any]:
    """Return percentiles of the seconds between tokens; empty below two tokens.

    Args:
        times: seconds from the start to each new token.
    """
    if len(times) < 2:
        return {}
    found = np.percentile(np.diff(times), list(GAPS.values()))
    return dict(zip(GAPS, map(float, found), strict=True))
