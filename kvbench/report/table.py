"""The main table: one row per strategy and its baseline, as plain text cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvbench.analysis.cases import describe, varied
from kvbench.analysis.generated import is_sampled
from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.analysis.summary import CaseSummary
from kvbench.caches import BASELINE
from kvbench.device_kinds import kind_of
from kvbench.plan.axes import AXES, STRATEGY_AXES, TABLE_ORDER, Axis
from kvbench.records.check import Check
from kvbench.report.units import mib, seconds, significant, times
from kvbench.report.words import (
    Pair,
    baseline_of,
    compared,
    energy_interval,
    pairs,
    speedup_interval,
)
from kvbench.text import shorten

__all__ = [
    "IN_EACH_ROW",
    "Table",
    "at_least",
    "check_table",
    "energy_text",
    "expected_text",
    "failures",
    "pair_table",
    "speedup_text",
    "time_text",
]


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; `numeric` says which columns are right-aligned."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    caption: str


@dataclass(frozen=True)
class _Column:
    head: Callable[[Sequence[CaseSummary]], str]
    cell: Callable[[Pair], str]
    numeric: bool = True
    only_if_varied: str | None = None
    only_if_said: bool = False


_FLAGS_SHOWN = ("cold_start", "outlier", "trend")


def pair_table(cases: Sequence[CaseSummary]) -> Table:
    """Return the strategies side by side. Columns with one value throughout are left out."""
    found = pairs(cases)
    columns = [
        c
        for c in _COLUMNS
        if (c.only_if_varied is None or _varies(cases, c.only_if_varied))
        and not (c.only_if_said and {c.cell(pair) for pair in found} <= {"-"})
    ]
    return Table(
        heads=tuple(c.head(cases) for c in columns),
        rows=tuple(tuple(c.cell(pair) for c in columns) for pair in found),
        numeric=tuple(c.numeric for c in columns),
        caption=_caption(cases),
    )


def check_table(checks: Sequence[Check]) -> Table:
    """Return the checks, one row each, without columns that have one value throughout."""
    axes = [AXES[name] for name in STRATEGY_AXES if not AXES[name].single]
    varied = [axis for axis in axes if len({getattr(check, axis.name) for check in checks}) > 1]
    shown = [axis.name for axis in varied]
    heads = (*(axis.head for axis in varied), "check", "in", "batch", "verdict", "detail")
    rows = tuple(
        (
            *(str(getattr(check, name)) for name in shown),
            check.check,
            check.checked_dtype,
            "-" if check.batch_size is None else str(check.batch_size),
            check.verdict,
            check.detail,
        )
        for check in checks
    )
    return Table(heads, rows, tuple(head == "batch" for head in heads), "")


def failures(cases: Sequence[CaseSummary]) -> list[str]:
    """Return one line per failed case, with the reason."""
    differing = varied(cases)
    return [
        f"{c.status}: {describe(c, differing)}: {c.error or 'no reason given'}{_what_fits(c)}"
        for c in cases
        if c.status != "ok"
    ]


def _what_fits(case: CaseSummary) -> str:
    """Return what would fit in place of a case that ran out of memory, with numbers."""
    if case.room_bytes is None or case.needed_bytes is None:
        return ""
    known = f"about {mib(case.needed_bytes)} MiB needed, {mib(case.room_bytes)} MiB free"
    others = (case.fits_caches or "").split()
    if others:
        others = [f"cache {' or '.join(others)} at batch {case.batch_size}"]
    smaller = [f"batch {case.fits_batch}"] if case.fits_batch else []
    ways = "; or ".join((*smaller, *others))
    return f" ({known}; would fit: {ways})" if ways else f" ({known})"


def _named(name: str) -> Callable[[Sequence[CaseSummary]], str]:
    return lambda cases: name


def time_text(case: CaseSummary | None) -> str:
    """Return `1.15 s [1.12-1.20]`, or why there is no time; a dash for no case."""
    if case is None:
        return "-"
    if case.total_s_median is None:
        # A case that was interrupted before its first sample has not failed.
        return "-" if case.status == "ok" else case.status
    low, high = case.total_s_low, case.total_s_high
    if low is None and _warm(case) > 1:
        low, high = case.total_s_min, case.total_s_max
    if low is None or high is None:
        return seconds(case.total_s_median)
    # One unit for all three: the ends are in that of the median.
    unit = 1 if case.total_s_median >= 1 else 1000
    ends = significant(low * unit), significant(high * unit)
    return f"{seconds(case.total_s_median)} [{ends[0]}\N{EN DASH}{ends[1]}]"


def speedup_text(case: CaseSummary) -> str:
    """Return `3.15x (2.96-3.31)`, `3.15x` with too few rounds for an interval, or a dash."""
    return _ratio_text(case.speedup, speedup_interval(case))


def expected_text(case: CaseSummary) -> str:
    """Return `1.27x`, `≥1.00x` if it may be more, or a dash.

    A ratio of lower bounds is not an expectation: if launches are unknown, there is a dash.
    """
    if case.expected_speedup is None or case.expected_from == "bounds":
        return "-"
    return ("\N{GREATER-THAN OR EQUAL TO}" if at_least(case) else "") + times(case.expected_speedup)


def at_least(case: CaseSummary) -> bool:
    """Return whether the expected speedup is only a minimum.

    The rate of large products is too fast for those of a step without a cache. On a CPU the probe
    measured what its products of few rows take besides.
    """
    return case.expected_from == "layers" and kind_of(case.device).queues_work


def energy_text(case: CaseSummary) -> str:
    """Return the same for the energy of the baseline over that with the cache."""
    return _ratio_text(case.energy_ratio, energy_interval(case))


def _ratio_text(ratio: float | None, interval: tuple[float, float] | None) -> str:
    if ratio is None:
        return "-"
    if interval is None:
        return times(ratio)
    return f"{times(ratio)} ({significant(interval[0])}\N{EN DASH}{significant(interval[1])})"


def _warm(case: CaseSummary) -> int:
    return case.samples - case.cold_starts


def _shown_flags(pair: Pair) -> str:
    """Return the flags that affect the speedup: `off cold_start:1; dynamic outlier:1 trend`."""
    found = []
    for case in pair:
        flags = [] if case is None else (case.flags or "").split()
        shown = [flag for flag in flags if flag.partition(":")[0] in _FLAGS_SHOWN]
        if case is not None and shown:
            found.append(f"{case.cache} {' '.join(shown)}")
    return "; ".join(found) or "-"


def _cached_head(cases: Sequence[CaseSummary]) -> str:
    names = {c.cache for c in cases if not c.is_baseline}
    if len(names) == 1:
        return names.pop()
    return "with cache" if baseline_of(cases) == BASELINE else "this cache"


def _memory_head(cases: Sequence[CaseSummary]) -> str:
    kinds = {kind_of(c.device).memory_label for c in cases}
    return f"{'/'.join(sorted(kinds))} MiB"


def _either(pair: Pair, name: str, shown: Callable[[float], str]) -> str:
    value = getattr(pair[1], name)
    return "-" if value is None else shown(value)


IN_EACH_ROW = ("cache", "batch_size", "max_new_tokens")
"""Axes that a table always shows, even if they do not vary."""


def _axis_column(axis: Axis) -> _Column:
    def cell(pair: Pair) -> str:
        value = str(getattr(pair[1], axis.name))
        return shorten(value, 24) if axis.name == "prompt" else value

    return _Column(_named(axis.head), cell, axis.is_number, axis.name)


_COLUMNS = (
    # A single-valued axis follows from the model.
    *(
        _axis_column(axis)
        for axis in TABLE_ORDER
        if axis.name not in IN_EACH_ROW and not axis.single
    ),
    _Column(_named("tokens"), lambda p: str(p[1].max_new_tokens)),
    _Column(_named("batch"), lambda p: str(p[1].batch_size)),
    _Column(_named("cache"), lambda p: p[1].cache, False, "_strategies"),
    _Column(baseline_of, lambda p: time_text(p[1] if p[1].is_baseline else p[0])),
    _Column(_cached_head, lambda p: "-" if p[1].is_baseline else time_text(p[1])),
    _Column(_named("speedup"), lambda p: speedup_text(p[1])),
    _Column(_named("expected"), lambda p: expected_text(p[1]), only_if_said=True),
    _Column(_named("TTFT"), lambda p: _either(p, "ttft_s_median", seconds), only_if_varied="turn"),
    _Column(_named("reused"), lambda p: _either(p, "cached_positions", str), only_if_varied="turn"),
    _Column(_named("tok/s"), lambda p: _either(p, "tokens_per_s_median", significant)),
    _Column(_named("cache MiB"), lambda p: _either(p, "kv_cache_bytes", mib)),
    _Column(_named("allocated MiB"), lambda p: _allocated(p[1]), only_if_said=True),
    _Column(_named("needs MiB"), lambda p: _needed(p[1]), only_if_said=True),
    _Column(_memory_head, lambda p: _either(p, "memory_peak_bytes", mib)),
    _Column(
        lambda cases: f"{baseline_of(cases)} J/tok",
        lambda p: _joules(p[1] if p[1].is_baseline else p[0]),
        only_if_said=True,
    ),
    _Column(
        _named("J/tok"),
        lambda p: "-" if p[1].is_baseline else _joules(p[1]),
        only_if_said=True,
    ),
    _Column(_named("less energy"), lambda p: energy_text(p[1]), only_if_said=True),
    _Column(_named("KL"), lambda p: _either(p, "kl_divergence", significant), only_if_said=True),
    _Column(
        _named("same top-1"),
        lambda p: _either(p, "top1_agreement", "{:.1%}".format),
        only_if_said=True,
    ),
    _Column(
        _named("perplexity"),
        lambda p: _either(p, "perplexity_ratio", "{:.4g}x".format),
        only_if_said=True,
    ),
    _Column(_named("flags"), _shown_flags, False, only_if_said=True),
)


def _allocated(case: CaseSummary) -> str:
    """Return what the cache allocates, if that is not what a step attends to."""
    allocated = case.cache_allocated_bytes
    return "-" if allocated is None or allocated == case.kv_cache_bytes else mib(allocated)


def _joules(case: CaseSummary | None) -> str:
    joules = None if case is None else case.energy_j_per_token
    return "-" if joules is None else significant(joules)


def _needed(case: CaseSummary) -> str:
    """Return what a case needs on a GPU in addition to the model."""
    needed = case.memory_over_base_bytes
    return "-" if case.memory_allocated_bytes is None or needed is None else mib(needed)


def _varies(cases: Sequence[CaseSummary], name: str) -> bool:
    if name == "_strategies":
        return len({c.cache for c in cases if not c.is_baseline}) > 1
    return AXES[name].is_told(getattr(c, name) for c in cases)


def _caption(cases: Sequence[CaseSummary]) -> str:
    counts = sorted({_warm(c) for c in cases if c.samples})
    if not counts:
        return "Nothing was measured."
    sampled = _sampled_caption(cases)
    if counts[-1] == 1:
        return f"Times: one sample per case; variance unknown. {sampled}".rstrip()
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"Times: median [min\N{EN DASH}max] of {number} samples"
    text += ", without cold ones. " if any(c.cold_starts for c in cases) else ". "
    known = {speedup_interval(c) is not None for c in cases if c.speedup is not None}
    if known:
        interval = {
            (True,): "95 % CI",
            (False,): f"no CI below {MIN_FOR_INTERVAL} rounds",
            (False, True): f"95 % CI from {MIN_FOR_INTERVAL} rounds",
        }[tuple(sorted(known))]
        text += (
            f"Speedup: {compared(cases)}, estimated within rounds ({interval}); it can differ from "
            "the ratio of the medians. "
        )
    if any(c.memory_allocated_bytes is not None for c in cases):
        text += (
            "needs: allocated by torch on top of the model; VRAM: in use on the whole GPU (NVML). "
        )
    if any(c.energy_ratio is not None for c in cases):
        text += f"less energy: joules per token, {compared(cases)}, estimated like the speedup. "
    if any(c.energy_samples and c.energy_samples < _warm(c) for c in cases):
        text += "J/tok: only samples long enough for a reading. "
    if any(c.method == "trace" for c in cases):
        text += "method trace: read from the longest generation of the same round. "
    if any(c.cached_positions is not None for c in cases):
        off = f"{BASELINE}: the same turn without a cache; " * (baseline_of(cases) == BASELINE)
        text += (
            f"{off}TTFT: time to first token; reused: positions of "
            "the history that were in the cache. "
        )
    text += sampled
    if any(c.kl_divergence is not None for c in cases):
        text += (
            "KL: mean divergence of the next-token distribution from the one without a cache, in "
            "nats; same top-1: tokens with the same most likely token; perplexity: relative to no "
            "cache. "
        )
    return text + "tok/s, cache, memory and J/tok: with the cache."


def _sampled_caption(cases: Sequence[CaseSummary]) -> str:
    if not any(is_sampled(c) for c in cases):
        return ""
    return (
        "method sampled: estimated from single steps at chosen positions, not measured in full; "
        "their range is the 95 % interval of the estimate. "
    )
