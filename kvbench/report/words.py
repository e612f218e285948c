"""The answer in words: what the cache bought at the longest length that was measured."""

from __future__ import annotations

from collections.abc import Sequence

from kvbench.analysis.cases import named, varied
from kvbench.analysis.summary import CaseSummary, pair_key
from kvbench.records.check import Verdict
from kvbench.records.finding import Finding, not_asked
from kvbench.records.run import RunInfo
from kvbench.report.units import MIB, seconds, significant
from kvbench.strategies import BASELINE

__all__ = ["Pair", "answers", "pairs", "proof", "proofs", "shown_findings", "speedup_range"]

Pair = tuple[CaseSummary | None, CaseSummary]
"""The uncached case, if it was measured, and a cached one of the same key."""


def pairs(cases: Sequence[CaseSummary]) -> list[Pair]:
    """Each cached case with its uncached partner; uncached cases without a partner stand alone."""
    off = {pair_key(case): case for case in cases if case.cache == BASELINE}
    found: list[Pair] = [(off.get(pair_key(c)), c) for c in cases if c.cache != BASELINE]
    paired = {pair_key(case) for _, case in found}
    found += [(None, case) for key, case in off.items() if key not in paired]
    return found


def answers(cases: Sequence[CaseSummary]) -> list[str]:
    """One sentence per model, device and strategy, about its longest measured pair."""
    longest: dict[tuple[object, ...], tuple[CaseSummary, CaseSummary]] = {}
    for off, on in pairs(cases):
        if off is not None and on.speedup is not None:
            key = (on.model, on.weights, on.device, on.dtype, on.attention, on.cache)
            if key not in longest or _size(on) >= _size(longest[key][1]):
                longest[key] = (off, on)
    differing, several = varied(cases), len({case.dtype for case in cases}) > 1
    return [
        _sentence(off, on, [*([on.dtype] if several else []), *named(on, differing)])
        for off, on in longest.values()
    ]


def proofs(info: RunInfo) -> list[str]:
    """Whether the arms did the same work: one sentence per model and strategy."""
    if info.findings:
        return [proof(finding) for finding in shown_findings(info)]
    if info.plan.get("verify") is False:
        return ["Not verified: whether the arms do the same work was not checked (--no-verify)."]
    return []


def shown_findings(info: RunInfo) -> tuple[Finding, ...]:
    """What was found, and in a run that was only verified in part, of what nothing was."""
    if not info.findings or info.plan.get("verify") is not False:
        return info.findings
    return (*info.findings, *not_asked(info.cases, info.findings))


def proof(finding: Finding) -> str:
    """What the checks of a strategy came to, in a sentence or two."""
    sentence = f"{_PROOFS[finding.verdict]}: {finding.subject}. {finding.detail}"
    if finding.verdict != "pass" or not finding.reach:
        return sentence
    sizes = [f"{tokens} new tokens at batch {batch}" for batch, tokens in finding.reach]
    return f"{sentence} Checked up to {' and '.join(sizes)}."


_PROOFS: dict[Verdict, str] = {
    "pass": "Verified, the same work as without a cache",
    "near_tie": "Not verified, though tokens part at near-ties alone",
    "exempt": "Lossy, so that its work is not the same",
    "inconclusive": "Not verified",
    "not_finished": "Not verified, since the checks were cut off",
    "not_asked": "Not verified, since it was not asked for",
    "skipped": "Not verified, since checks were skipped",
    "fail": "NOT THE SAME WORK as without a cache, so that its times mean nothing",
}


def speedup_range(case: CaseSummary) -> tuple[float, float] | None:
    """The 95 % interval of the speed-up; with too few samples, its range over the rounds.

    The ratio of the medians is in it in any case: of a noisy machine's few samples it may lie
    beyond the ratios of all rounds.
    """
    if case.speedup_ci95_low is not None and case.speedup_ci95_high is not None:
        return case.speedup_ci95_low, case.speedup_ci95_high
    if case.speedup_round_min is not None and case.speedup_round_max is not None:
        known = [case.speedup] if case.speedup is not None else []
        return min(case.speedup_round_min, *known), max(case.speedup_round_max, *known)
    return None


def _sentence(off: CaseSummary, on: CaseSummary, told: Sequence[str]) -> str:
    assert on.speedup and off.total_s_median and on.total_s_median
    tokens = f"{on.max_new_tokens} new tokens"
    if on.batch_size > 1:
        tokens += f" for each of {on.batch_size} sequences"
    which = f" ({', '.join(told)})" if told else ""
    name = "the cache" if on.cache == "dynamic" else f"the {on.cache} cache"
    took = (
        f"On {on.device}, with {name}, {tokens} of {on.model}{which} take "
        f"{seconds(on.total_s_median)} instead of {seconds(off.total_s_median)}"
    )
    cost = (
        ""
        if on.kv_cache_bytes is None
        else f", for {significant(on.kv_cache_bytes / MIB)} MiB of cache"
    )
    return f"{took}: {_verdict(on.speedup, on)}{cost}."


def _verdict(speedup: float, case: CaseSummary) -> str:
    ratio = f"{significant(speedup)} times as fast"
    low, high = speedup_range(case) or (speedup, speedup)
    spread = f"{significant(low)} to {significant(high)}"
    rounds = case.speedup_rounds or 0
    if case.speedup_ci95_low is None and rounds < 2:
        return f"{ratio} (from one round, so that nothing is known of the spread)"
    if case.speedup_ci95_low is None:
        spread += f" over {rounds} rounds, too few for an interval"
    else:
        spread = f"95 % interval {spread}"
    if low <= 1 <= high:
        return f"no clear difference, {ratio} ({spread})"
    return f"{ratio} ({spread})" if speedup > 1 else f"slower, {ratio} ({spread})"


def _size(case: CaseSummary) -> tuple[int, int, int]:
    return case.max_new_tokens, case.prompt_tokens or 0, case.batch_size
