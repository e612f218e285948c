"""Which strategy to choose: the fastest, the smallest, the smallest that keeps the quality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kvbench.analysis.claims import does_other_work
from kvbench.analysis.cold import cold_starts
from kvbench.analysis.statistics import fastest, least_rounds, paired_ratio
from kvbench.analysis.summary import CaseSummary
from kvbench.caches import strategy
from kvbench.plan.axes import AXES, MODEL_AXES, values_of
from kvbench.records.sample import Sample, latest, round_of

__all__ = ["MOST_PERPLEXITY", "Choice", "Recommendation", "kept_bytes", "largest", "recommend"]

_BUT_CACHE = tuple(name for name in AXES if name != "cache")

MOST_PERPLEXITY = 1.01
"""A strategy keeps the quality if its perplexity is surely at most this many times as high."""

Reason = Literal["too_few_rounds", "not_distinct", "tied", "not_measured"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer.

    Attributes:
        cache: the strategy; null where the measurements carry none.
        reason: then why: too few shared rounds, times that are not distinct, equal bytes, or
            nothing measured that would tell.
        value: bytes, or for the fastest how many times as fast as the next one it is.
        next: of the fastest, the next one.
    """

    cache: str | None = None
    reason: Reason | None = None
    value: float | None = None
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to choose for the largest case of one model.

    Attributes:
        case: one of its summaries: the strategy apart, they are the same case.
        compared: the strategies that were compared; those found to do other work are left out.
        rounds: how many rounds they share.
        rounds_needed: with fewer, none of so many strategies can be shown to be the fastest.
    """

    case: CaseSummary
    compared: tuple[str, ...]
    rounds: int
    rounds_needed: int
    fastest: Choice
    smallest: Choice
    smallest_within: Choice


def largest(cases: Iterable[CaseSummary]) -> list[list[CaseSummary]]:
    """Return the largest case of each model, in all strategies that were timed.

    Models with fewer than two strategies that cache are left out: there is nothing to choose.
    """
    groups: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in cases:
        if case.total_s_median is not None:
            groups.setdefault(values_of(case, _BUT_CACHE), []).append(case)
    found: dict[tuple[object, ...], list[CaseSummary]] = {}
    for group in groups.values():
        key = values_of(group[0], MODEL_AXES)
        caching = sum(strategy(case.cache).use_cache for case in group)
        if caching > 1 and (key not in found or _size(group) > _size(found[key])):
            found[key] = group
    return list(found.values())


def recommend(
    cases: Sequence[CaseSummary], samples: Sequence[Sample]
) -> tuple[Recommendation, ...]:
    """Return what to choose for each model, each answer only where the measurements carry it."""
    rows = latest(samples)
    cold = cold_starts(rows)
    groups = largest(cases)
    wanted = {case.case_id for group in groups for case in group}
    times: dict[str, dict[tuple[int, int, int], float]] = {}
    for row in rows:
        timed = row.phase == "measure" and row.status == "ok" and row.total_s
        if timed and row.case_id in wanted and row.sample_id not in cold:
            times.setdefault(row.case_id, {})[round_of(row)] = row.total_s or 0.0
    found = []
    for group in groups:
        same = [case for case in group if not does_other_work(case)]
        if len(same) > 1:
            found.append(_recommend(same, [times.get(case.case_id, {}) for case in same]))
    return tuple(found)


def kept_bytes(case: CaseSummary) -> int | None:
    """Return the bytes that the cache of a case takes."""
    known = case.cache_allocated_bytes
    return case.kv_cache_bytes if known is None else known


def _recommend(
    group: Sequence[CaseSummary], times: Sequence[dict[tuple[int, int, int], float]]
) -> Recommendation:
    shared = [place for place in times[0] if all(place in other for other in times)]
    by_cache = {
        case.cache: [own[place] for place in shared] for case, own in zip(group, times, strict=True)
    }
    needed = least_rounds(2 * 0.05 / len(group))
    caching = [case for case in group if strategy(case.cache).use_cache]
    return Recommendation(
        case=group[0],
        compared=tuple(by_cache),
        rounds=len(shared),
        rounds_needed=needed,
        fastest=_fastest(by_cache, needed),
        smallest=_smallest(caching),
        smallest_within=_smallest([case for case in caching if _keeps_quality(case)]),
    )


def _fastest(times: dict[str, list[float]], needed: int) -> Choice:
    if len(next(iter(times.values()))) < needed:
        return Choice(reason="too_few_rounds")
    name = fastest(times)
    if name is None:
        return Choice(reason="not_distinct")
    ratios = {
        other: paired_ratio(values, times[name]).ratio
        for other, values in times.items()
        if other != name
    }
    second = min(ratios, key=lambda other: ratios[other])
    return Choice(cache=name, value=ratios[second], next=second)


def _smallest(cases: Sequence[CaseSummary]) -> Choice:
    sizes = {case.cache: kept_bytes(case) for case in cases}
    known = {cache: size for cache, size in sizes.items() if size is not None}
    if not known or len(known) < len(sizes):
        return Choice(reason="not_measured")
    least = min(known.values())
    names = [cache for cache, size in known.items() if size == least]
    if len(names) > 1:
        return Choice(reason="tied", value=least)
    return Choice(cache=names[0], value=least)


def _keeps_quality(case: CaseSummary) -> bool:
    if not strategy(case.cache).lossy:
        return True
    high, needles = case.perplexity_ratio_high, case.needles_found_ratio
    kept = high is not None and high <= MOST_PERPLEXITY
    return kept and (needles is None or needles >= 1)


def _size(group: Sequence[CaseSummary]) -> tuple[float, int]:
    case = group[0]
    positions = case.max_new_tokens + (case.prompt_tokens or 0)
    return math.prod((case.batch_size, positions)), len(group)
