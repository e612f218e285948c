"""The answer in words: what the cache bought at the longest measured length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from kvbench.analysis.cases import named, varied
from kvbench.analysis.claims import Claim, claim, energy_claim
from kvbench.analysis.cold import COLD_FACTOR
from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.analysis.summary import CaseSummary, pair_key
from kvbench.caches import BASELINE, strategy
from kvbench.errors import check_choice
from kvbench.plan.axes import AXES, values_of
from kvbench.records.check import Verdict
from kvbench.records.finding import Finding, not_asked
from kvbench.records.run import RunInfo
from kvbench.report.units import MIB, seconds, significant, times

__all__ = [
    "Pair",
    "answers",
    "baseline_of",
    "chosen_baseline",
    "compared",
    "energy_interval",
    "pairs",
    "proof",
    "proofs",
    "shown_findings",
    "speedup_interval",
]

Pair = tuple[CaseSummary | None, CaseSummary]
"""The baseline case, if it was measured, and a cached case of the same key."""


def pairs(cases: Sequence[CaseSummary]) -> list[Pair]:
    """Return each other case with its baseline; baselines without a partner come alone."""
    off = {pair_key(case): case for case in cases if case.is_baseline}
    found: list[Pair] = [(off.get(pair_key(c)), c) for c in cases if not c.is_baseline]
    paired = {pair_key(case) for _, case in found}
    found += [(None, case) for key, case in off.items() if key not in paired]
    return found


def baseline_of(cases: Sequence[CaseSummary]) -> str:
    """Return the strategy that these cases are compared with."""
    return next((case.baseline for case in cases), BASELINE)


def compared(cases: Sequence[CaseSummary]) -> str:
    """Return what a ratio divides by what: `off / cached`."""
    name = baseline_of(cases)
    return f"{name} / {'cached' if name == BASELINE else 'this cache'}"


def chosen_baseline(name: str | None, caches: Iterable[str]) -> str:
    """Return the strategy to compare with: the given one, or no cache.

    Raises:
        UserError: the strategy is unknown, or not among the measured ones.
    """
    if name is None:
        return BASELINE
    found = strategy(name).name
    check_choice("--baseline", "cache strategy of these runs", found, list(dict.fromkeys(caches)))
    return found


def answers(cases: Sequence[CaseSummary]) -> list[str]:
    """Return one sentence for all sizes of the same work, about its longest measured case."""
    longest: dict[tuple[object, ...], tuple[CaseSummary, CaseSummary]] = {}
    for off, on in pairs(cases):
        if off is not None and on.speedup is not None:
            key = values_of(on, (name for name, axis in AXES.items() if not axis.is_size))
            if key not in longest or _size(on) >= _size(longest[key][1]):
                longest[key] = (off, on)
    differing, several = varied(cases), len({case.dtype for case in cases}) > 1
    return [
        _sentence(off, on, [*([on.dtype] if several else []), *named(on, differing)])
        for off, on in longest.values()
    ]


def proofs(info: RunInfo) -> list[str]:
    """Return whether the output matches the baseline: one sentence per model and strategy."""
    if info.findings:
        return [proof(finding) for finding in shown_findings(info)]
    if info.plan.get("verify") is False:
        return ["Not verified: the output was not checked (--no-verify)."]
    return []


def shown_findings(info: RunInfo) -> tuple[Finding, ...]:
    """Return the verification results; for a partly verified run, unverified strategies too."""
    if not info.findings or info.plan.get("verify") is not False:
        return info.findings
    return (*info.findings, *not_asked(info.cases, info.findings))


def proof(finding: Finding) -> str:
    """Return the result of a strategy's checks in a sentence or two."""
    sentence = f"{_PROOFS[finding.verdict]}: {finding.subject}. {finding.detail}"
    if finding.verdict != "pass" or not finding.reach:
        return sentence
    sizes = [f"{tokens} new tokens at batch {batch}" for batch, tokens in finding.reach]
    return f"{sentence} Checked up to {' and '.join(sizes)}."


_PROOFS: dict[Verdict, str] = {
    "pass": "Verified, matches the no-cache baseline",
    "near_tie": "Inconclusive, tokens diverge but only at near-ties",
    "exempt": "Lossy, output may differ from the no-cache baseline",
    "inconclusive": "Not verified",
    "not_finished": "Not verified, the checks did not finish",
    "not_asked": "Not verified, not requested",
    "skipped": "Not verified, checks were skipped",
    "fail": "FAILED, output differs from the no-cache baseline and timings are not comparable",
}


def speedup_interval(case: CaseSummary) -> tuple[float, float] | None:
    """Return the 95 % interval of the speedup; None with too few rounds."""
    if case.speedup_ci95_low is None or case.speedup_ci95_high is None:
        return None
    return case.speedup_ci95_low, case.speedup_ci95_high


def energy_interval(case: CaseSummary) -> tuple[float, float] | None:
    """Return the 95 % interval of the energy ratio; None with too few rounds."""
    if case.energy_ratio_ci95_low is None or case.energy_ratio_ci95_high is None:
        return None
    return case.energy_ratio_ci95_low, case.energy_ratio_ci95_high


def _sentence(off: CaseSummary, on: CaseSummary, told: Sequence[str]) -> str:
    assert off.total_s_median and on.total_s_median
    tokens = f"{on.max_new_tokens} new tokens"
    if on.batch_size > 1:
        tokens += f" for each of {on.batch_size} sequences"
    which = f" ({', '.join(told)})" if told else ""
    name = _name(on)
    subject = f"{on.model} on {on.device}{which}, {tokens}"
    others = "without" if off.cache == BASELINE else f"with {_name(off)}"
    times_s = f"{seconds(on.total_s_median)} with {name}, {seconds(off.total_s_median)} {others}"
    found = claim(on)
    if found == "too_few":
        answer = f"{subject}: {times_s} (too few samples for a claim: {_rounds(on)})"
    elif found == "other_work":
        answer = f"{subject}: no claim for {name}, its output differs from the no-cache baseline"
    elif found == "disagree":
        answer = (
            f"{subject}: no claim for {name}, the rounds disagree by half or more "
            f"(95 % CI of the speedup {_spread(on)}){_energy(on)}"
        )
    else:
        answer = f"{subject}: {times_s}; {_verdict(on, found)}{_size_of_cache(on)}{_energy(on)}"
    doubts = _doubts(off, on)
    return " ".join([f"{answer}.", *doubts]) if doubts else answer


def _name(case: CaseSummary) -> str:
    """Return what a sentence calls a strategy."""
    if case.cache == BASELINE:
        return "no cache"
    plain = case.cache == "dynamic" and case.baseline == BASELINE
    return "the cache" if plain else f"the {case.cache} cache"


def _verdict(case: CaseSummary, found: Claim | None) -> str:
    assert case.speedup
    words = {"unclear": "no clear difference, ", "slower": "slower, "}.get(found or "", "")
    return f"{words}speedup {times(case.speedup)} (95 % CI {_spread(case)})"


def _size_of_cache(case: CaseSummary) -> str:
    """Return the size of the cache, to go on with; nothing without one, or if it is not known."""
    if not case.kv_cache_bytes:
        return ""
    return f", {_brief(case.kv_cache_bytes / MIB)} MiB"


def _energy(case: CaseSummary) -> str:
    """Return the energy of the strategy as a continuation; empty if it was not measured."""
    found = energy_claim(case)
    if found is None:
        return ""
    if found == "too_few":
        return f"; too few rounds with energy readings for a claim ({case.energy_rounds or 0})"
    assert case.energy_ratio
    low, high = energy_interval(case) or (math.nan, math.nan)
    if found == "less":
        return f"; {times(case.energy_ratio)} less energy (95 % CI {_range(low, high)})"
    # More is not a share of less: how much of the energy of off it takes.
    interval = f"(95 % CI {_range(1 / high, 1 / low)})"
    if found == "more":
        return f"; {times(1 / case.energy_ratio)} the energy {interval}"
    doubt = {
        "unclear": "no clear difference in energy",
        "disagree": "no claim about energy, the rounds disagree by half or more",
    }[found]
    return f"; {doubt} ({_range(1 / high, 1 / low)}x that of {case.baseline}, 95 % CI)"


def _spread(case: CaseSummary) -> str:
    return _range(*(speedup_interval(case) or (math.nan, math.nan)))


def _range(low: float, high: float) -> str:
    """Return the ends of an interval in two digits, or in three where two would blur it."""
    step = 10.0 ** (math.floor(math.log10(low)) - 1) if low > 0 else math.nan
    near_one = any(0.9 <= end < 1.1 for end in (low, high))
    shown = _brief if high - low > 1.5 * step and not near_one else significant
    return f"{shown(low)}\N{EN DASH}{shown(high)}"


def _brief(value: float) -> str:
    """Return a value with two significant digits, or all those before the point."""
    return significant(value) if value >= 100 else format(Decimal(f"{value:.1e}"), "f")


def _rounds(case: CaseSummary) -> str:
    count = case.speedup_rounds or 0
    shared = "no shared round" if count == 0 else f"{count} shared round{'s' * (count != 1)}"
    return f"{shared}, {MIN_FOR_INTERVAL} needed"


def _doubts(off: CaseSummary, on: CaseSummary) -> list[str]:
    """Return sentences about cold samples, outliers and trends of either strategy."""
    cold = [
        f"{one.cold_starts} of {one.cache} ({seconds(one.cold_start_s)})"
        for one in (off, on)
        if one.cold_start_s
    ]
    far = [f"{one.outliers} of {one.cache}" for one in (off, on) if one.outliers]
    trends = [
        f"those of {one.cache} {'rise' if one.trend > 0 else 'fall'} by {abs(one.trend):.0%}"
        for one in (off, on)
        if one.trend is not None and "trend" in (one.flags or "").split()
    ]
    first = [
        f"{one.cache} {seconds(one.cold_s)}, later {seconds(one.total_s_median)}"
        for one in (off, on)
        if one.cold_s and one.total_s_median and one.cold_s > COLD_FACTOR * one.total_s_median
    ]
    return [
        *([f"First pass in this process: {'; '.join(first)}."] if first else []),
        *([f"Cold samples left out: {', '.join(cold)}."] if cold else []),
        *([f"Outliers kept: {', '.join(far)}."] if far else []),
        *([f"The times change over the rounds: {', '.join(trends)}."] if trends else []),
    ]


def _size(case: CaseSummary) -> tuple[int, int, int]:
    return case.max_new_tokens, case.prompt_tokens or 0, case.batch_size
