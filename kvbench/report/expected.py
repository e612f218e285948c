"""Explain in words what runs should have cost: lower bounds, bottlenecks, break-even lengths."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from kvbench.analysis.cases import describe, varied
from kvbench.analysis.claims import claim
from kvbench.analysis.expected import HORIZON, Expectation, expectations
from kvbench.analysis.summary import CaseSummary, pair_key
from kvbench.device_kinds import kind_of
from kvbench.records.run import RunInfo
from kvbench.report.table import at_least
from kvbench.report.units import seconds, significant, times

__all__ = ["expectation_sentences"]

_BOUND = {"memory": "memory-bound", "compute": "compute-bound", "overhead": "overhead-bound"}


def expectation_sentences(cases: Sequence[CaseSummary], info: RunInfo) -> list[str]:
    """Return sentences for each strategy with a known lower bound; none without rates."""
    found, differing = expectations(cases, info), varied(cases)
    return [
        sentence
        for one in found
        for sentence in (*_sentences(one, differing), *_others(one.on, cases))
    ]


def _sentences(found: Expectation, differing: Collection[str]) -> list[str]:
    off, on, rates = found.off, found.on, found.rates
    assert off.floor_s and on.floor_s
    source = "probed" if rates.source == "probe" else "published"
    if rates.flags:
        source += f", unreliable: {', '.join(rates.flags)}"
    arithmetic = significant(rates.flops_per_s[on.dtype] / 1e12)
    sentences = [
        f"{describe(on, differing)}: at {significant(rates.read_bytes_per_s / 1e9)} GB/s and "
        f"{arithmetic} TFLOP/s ({source}), the lower bound is {seconds(on.floor_s)}, and "
        f"{seconds(off.floor_s)} without a cache. {_expected(on)}",
        _step("Without a cache", off, _why(found, off))
        + f" {_step('With it', on, _why(found, on))}",
    ]
    if at_least(on):
        sentences.append(
            "These rates come from an older probe without products of a decoder's sizes, so steps "
            "without a cache take longer than expected: run kvbench probe again."
        )
    if any((case.total_s_median or math.inf) < (case.floor_s or 0.0) for case in (off, on)):
        sentences.append(
            "A run beat its lower bound: the rates are too low, probably because the machine was "
            "busy. Probe again when it is idle."
        )
    # Time that other processes took from a step is not overhead of the model.
    if found.overhead_s is not None and "busy_" not in (on.flags or ""):
        sentences.append(_overhead(found.overhead_s, found))
    return sentences


def _expected(on: CaseSummary) -> str:
    """Return the predicted and the measured speedup, with the range of the rounds."""
    assert on.expected_speedup and on.speedup
    expected, measured = significant(on.expected_speedup), times(on.speedup)
    low, high = on.speedup_round_min, on.speedup_round_max
    rounds = on.speedup_rounds or 0
    if low is not None and high is not None and rounds > 1:
        measured += f" ({significant(low)} to {significant(high)} in {rounds} rounds)"
    doubted = claim(on) in ("too_few", "disagree", "other_work")
    no_claim = " (no claim)" if doubted else ""
    if on.expected_from == "bounds":
        return (
            f"Ratio of the bounds {expected}x, measured {measured}{no_claim}; these rates do not "
            "include launch cost."
        )
    least = "at least " if at_least(on) else ""
    return f"Expected speedup {least}{expected}x, measured {measured}{no_claim}."


def _step(name: str, case: CaseSummary, why: str) -> str:
    """Return how far a step is from its lower bound, and why."""
    assert case.mbu is not None and case.mfu is not None
    return (
        f"{name} a step takes {seconds(_step_s(case))}, {_times_bound(case, case)} times its lower "
        f"bound: {why}; MBU {_share(case.mbu)}, MFU {_share(case.mfu)}."
    )


def _why(found: Expectation, case: CaseSummary) -> str:
    """Return what a step waits for, in plain words."""
    reason = found.reasons[0 if case is found.off else 1]
    if reason != "launch":
        return _BOUND[reason]
    if found.launch_s is None:
        # How long a step takes says that something else dominates it, not how long launches take.
        return "probably launch-bound, launches were not probed"
    known = " (as far as these rates show)" if case is found.off and at_least(found.on) else ""
    return f"launch-bound{known}, launches alone take {seconds(found.launch_s)}"


def _step_s(case: CaseSummary) -> float:
    return (case.total_s_median or 0.0) / case.max_new_tokens


def _times_bound(case: CaseSummary, bound: CaseSummary) -> str:
    return significant((case.total_s_median or 0.0) / (bound.floor_s or math.inf))


def _others(on: CaseSummary, cases: Sequence[CaseSummary]) -> list[str]:
    """Return sentences on strategies without a lower bound, next to one that has it."""
    others = [
        f"{case.cache} {seconds(_step_s(case))} ({_times_bound(case, on)} times)"
        for case in cases
        if case.total_s_median and case.floor_s is None and pair_key(case) == pair_key(on)
    ]
    if not others:
        return []
    return [
        f"Other strategies per step, against the lower bound of {on.cache}: {', '.join(others)}."
    ]


def _share(share: float) -> str:
    """Return a fraction in percent: `74 %`, and `0.12 %` if it is small."""
    return f"{significant(100 * share)} %"


def _overhead(step_s: float, found: Expectation) -> str:
    step = f"If no step takes less than the {seconds(step_s)} measured with the cache,"
    if found.pays_from is None:
        return f"{step} no speedup is expected within {HORIZON} tokens."
    if found.on.expected_from != "products" and kind_of(found.on.device).queues_work:
        # A step without a cache takes longer than at the rate of large products.
        return f"{step} a speedup is expected from {found.pays_from} tokens at the latest."
    return f"{step} no speedup is expected below {found.pays_from} tokens."
