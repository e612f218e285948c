"""What runs should have cost, in words: floors, what limits each arm, from where a cache pays."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from kvbench.analysis.cases import describe, varied
from kvbench.analysis.claims import claim
from kvbench.analysis.expected import HORIZON, Expectation, expectations
from kvbench.analysis.summary import CaseSummary
from kvbench.records.run import RunInfo
from kvbench.report.units import seconds, significant

__all__ = ["expectation_sentences"]

_LIMITS = {
    "bandwidth": "memory bandwidth",
    "arithmetic": "arithmetic",
    "overhead": "overhead (over 3 times its floor)",
}


def expectation_sentences(cases: Sequence[CaseSummary], info: RunInfo) -> list[str]:
    """Two or three sentences for each pair of arms whose floors are known; none without rates."""
    found, differing = expectations(cases, info), varied(cases)
    return [sentence for one in found for sentence in _sentences(one, differing)]


def _sentences(found: Expectation, differing: Collection[str]) -> list[str]:
    off, on, rates = found.off, found.on, found.rates
    assert off.floor_s and on.floor_s and on.expected_speedup and on.speedup
    source = "as probed" if rates.source == "probe" else "as published"
    if rates.flags:
        source += f", in doubt ({', '.join(rates.flags)})"
    arithmetic = significant(rates.flops_per_s[on.dtype] / 1e12)
    sentences = [
        f"{describe(on, differing)}: at {significant(rates.read_bytes_per_s / 1e9)} GB/s and "
        f"{arithmetic} TFLOP/s, {source}, it takes at least {seconds(on.floor_s)}, and "
        f"{seconds(off.floor_s)} without a cache. {significant(on.expected_speedup)} times as fast "
        f"is to be expected, {significant(on.speedup)} was measured"
        f"{', which is no claim' if claim(on) in ('too_few', 'disagree', 'other_work') else ''}.",
        f"{_limit('Without a cache', off)} {_limit('With it', on)}",
    ]
    if any((arm.total_s_median or math.inf) < (arm.floor_s or 0.0) for arm in (off, on)):
        sentences.append(
            "A run below its floor: the rates are too low, as of a busy machine. Probe again when "
            "it is idle."
        )
    # What neighbours took of a step is no overhead of the model's.
    if found.overhead_s is not None and "busy_" not in (on.flags or ""):
        sentences.append(_overhead(found.overhead_s, found.pays_from))
    return sentences


def _limit(arm: str, case: CaseSummary) -> str:
    assert case.limited_by and case.mbu is not None and case.mfu is not None
    return (
        f"{arm} the limit is {_LIMITS[case.limited_by]}: {_share(case.mbu)} of the bandwidth "
        f"(MBU), {_share(case.mfu)} of the arithmetic (MFU) are used."
    )


def _share(share: float) -> str:
    """A share in per cent: `74 %`, and `0.12 %` where it is small."""
    return f"{significant(100 * share)} %"


def _overhead(step_s: float, pays_from: int | None) -> str:
    if pays_from is None:
        return (
            f"Overhead-bound: a step takes {seconds(step_s)} whatever it computes, and no speed-up "
            f"is expected within {HORIZON} tokens."
        )
    return (
        f"Overhead-bound: a step takes {seconds(step_s)} whatever it computes; no speed-up is "
        f"expected below {pays_from} tokens."
    )
