"""Summarize the samples of a run: one row per case, with its speedup over the baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeVar

import numpy as np

from kvbench.analysis.cases import ReadingOrder
from kvbench.analysis.cold import cold_starts
from kvbench.analysis.gaps import GAPS
from kvbench.analysis.statistics import (
    MIN_FOR_INTERVAL,
    outliers,
    paired_ratio,
    ratio_of_medians,
    trend,
)
from kvbench.caches import BASELINE
from kvbench.plan.axes import AXES, values_of
from kvbench.records.case import CaseRecord
from kvbench.records.columns import axes_after, column
from kvbench.records.sample import Sample, Status, latest, memory_readings, round_of
from kvbench.theory.floors import Limit

T = TypeVar("T")

ExpectedFrom = Literal["products", "layers", "bounds"]

__all__ = [
    "OF_A_CASE",
    "CaseSummary",
    "ExpectedFrom",
    "line_key",
    "pair_key",
    "summarize_cases",
]

OF_A_CASE = ("undersampled", "trend")
"""Flags of a whole case; all other flags belong to samples and are counted."""

_TREND_LEVEL = 0.01
_LEAST_TREND = 0.05
"""A trend is flagged below this p-value, if it changes the times by at least this fraction."""

_PAIR = tuple(name for name in AXES if name not in ("cache", "reuse"))


@axes_after("case_id")
@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSummary(CaseRecord):
    """One case: medians over its counted samples, with cold ones excluded from times and energy.

    Null means not known, never zero.
    """

    case_id: str = column("As in samples.csv.")
    status: Status = column("ok, or the status of the sample that ended the case.")
    error: str | None = column("Error of that sample.", default=None)
    attention_used: str | None = column("As in samples.csv.", default=None)
    samples: int = column("Counted samples: phase measure, status ok.", unit="samples")
    cold_starts: int = column(
        "Cold samples among them: the first of the case in a worker process, if it took over 1.5 "
        "times as long as each of at least two later ones. Excluded from everything below except "
        "memory.",
        unit="samples",
        default=0,
    )
    flags: str | None = column(
        "undersampled (fewer than 6 samples, cold ones excluded), trend, and with the number of "
        "samples cold_start, outlier and the samples' own flags, such as busy_cpu:2.",
        default=None,
    )
    cold_start_s: float | None = column(
        "Median wall time of the cold samples.", unit="s", default=None
    )
    outliers: int | None = column(
        "Outliers that are not cold: over 1.5 times the median or under its inverse, and more "
        "than three interquartile ranges outside the quartiles. They count.",
        unit="samples",
        default=None,
    )
    trend: float | None = column(
        "How much the times rose over the rounds: median of the last third of the samples over "
        "that of the first, minus 1; null below 6 samples.",
        default=None,
    )
    total_s_median: float | None = column("Median wall time of generate().", unit="s", default=None)
    total_s_q1: float | None = column("First quartile of total_s.", unit="s", default=None)
    total_s_q3: float | None = column("Third quartile of total_s.", unit="s", default=None)
    total_s_min: float | None = column("Minimum of total_s.", unit="s", default=None)
    total_s_max: float | None = column("Maximum of total_s.", unit="s", default=None)
    total_s_low: float | None = column(
        "sampled: median lower end of the 95 % interval of total_s.", unit="s", default=None
    )
    total_s_high: float | None = column(
        "sampled: median upper end of the 95 % interval of total_s.", unit="s", default=None
    )
    ttft_s_median: float | None = column("Median time to first token.", unit="s", default=None)
    itl_s_median: float | None = column(
        "Median of the mean time between tokens.", unit="s", default=None
    )
    tokens_per_s_median: float | None = column(
        "Median of the new tokens of the whole batch per second.", unit="tokens/s", default=None
    )
    gap_p50_s: float | None = column(
        "Median of gap_p50_s over the samples.", unit="s", default=None
    )
    gap_p90_s: float | None = column(
        "Median of gap_p90_s over the samples.", unit="s", default=None
    )
    gap_p99_s: float | None = column(
        "Median of gap_p99_s over the samples.", unit="s", default=None
    )
    gap_max_s: float | None = column(
        "Median of gap_max_s over the samples.", unit="s", default=None
    )
    baseline: str = column(
        "Cache strategy that speedups and ratios compare with: off, or the one given by "
        "--baseline.",
        default=BASELINE,
    )
    speedup: float | None = column(
        "Time of the baseline divided by that of this strategy, in the otherwise identical case: "
        "the Hodges-Lehmann estimate from the ratios within rounds; the ratio of medians where "
        "speedup_rounds is 0.",
        default=None,
    )
    speedup_ci95_low: float | None = column(
        "95 % confidence interval of the speedup, from the exact signed-rank distribution; null "
        "below 6 rounds.",
        default=None,
    )
    speedup_ci95_high: float | None = column("Upper end of the interval.", default=None)
    speedup_rounds: int | None = column(
        "Rounds used for the speedup: both strategies measured by one worker process, neither "
        "sample cold; null without a baseline.",
        unit="rounds",
        default=None,
    )
    speedup_round_min: float | None = column(
        "Smallest speedup within one of these rounds.", default=None
    )
    speedup_round_max: float | None = column(
        "Largest speedup within one of these rounds.", default=None
    )
    same_output: bool | None = column(
        "Whether all samples of this strategy and of the baseline produced the same tokens; "
        "null without a baseline.",
        default=None,
    )
    kv_cache_bytes: int | None = column(
        "Exact size of the cache at the end.", unit="bytes", default=None
    )
    cache_allocated_bytes: int | None = column(
        "Exact size of the memory allocated for the cache, used or not.", unit="bytes", default=None
    )
    cache_host_bytes: int | None = column(
        "CUDA: the part of it in host memory.", unit="bytes", default=None
    )
    cache_disk_bytes: int | None = column(
        "Size of the files of a disk cache.", unit="bytes", default=None
    )
    weights_bytes: int | None = column(
        "Size of parameters and buffers.", unit="bytes", default=None
    )
    memory_peak_bytes: int | None = column(
        "Memory the machine must have: median peak of NVML's used memory on CUDA (torch's "
        "allocated without NVML), of the resident set on a CPU.",
        unit="bytes",
        default=None,
    )
    memory_over_base_bytes: int | None = column(
        "Memory the case needs on top of the model: median of the peak minus what was in use "
        "before the run; on CUDA from torch's allocator.",
        unit="bytes",
        default=None,
    )
    memory_allocated_bytes: int | None = column(
        "CUDA: median peak of what torch's allocator allocated, weights included.",
        unit="bytes",
        default=None,
    )
    energy_method: str | None = column(
        "How energy was read, as in samples.csv. If samples differ, the most common method; the "
        "figures below are from those samples only.",
        default=None,
    )
    energy_samples: int | None = column(
        "Counted samples with an energy reading, cold ones excluded; short samples have none.",
        unit="samples",
        default=None,
    )
    energy_j_per_token: float | None = column(
        "Median energy per new token.", unit="J", default=None
    )
    energy_j_per_token_min: float | None = column(
        "Minimum of the energy per new token.", unit="J", default=None
    )
    energy_j_per_token_max: float | None = column(
        "Maximum of the energy per new token.", unit="J", default=None
    )
    energy_ratio: float | None = column(
        "Energy per token of the baseline divided by that of this strategy, in the otherwise "
        "identical case and read with the same method: estimated like the speedup, from the ratios "
        "within rounds; the ratio of medians where energy_rounds is 0.",
        default=None,
    )
    energy_ratio_ci95_low: float | None = column(
        "95 % confidence interval of the energy ratio, from the exact signed-rank distribution; "
        "null below 6 rounds.",
        default=None,
    )
    energy_ratio_ci95_high: float | None = column("Upper end of the interval.", default=None)
    energy_rounds: int | None = column(
        "Rounds used for the energy ratio: energy read for both strategies, neither sample cold.",
        unit="rounds",
        default=None,
    )
    cold_s: float | None = column(
        "First pass in a process: total_s of the first full-length warm-up; null for short "
        "warm-ups.",
        unit="s",
        default=None,
    )
    cold_after: str | None = column("What had already run in that process.", default=None)
    compile_s: float | None = column(
        "Time that warm-ups and samples spent compiling; null for strategies that do not compile.",
        unit="s",
        default=None,
    )
    flops: int | None = column(
        "FLOPs of one generation in closed form. Null, like everything below, where the model has "
        "no cost model or the device no known rates: see docs/theory.md.",
        unit="FLOP",
        default=None,
    )
    moved_bytes: int | None = column(
        "Bytes of weights and cache that one generation has to read.", unit="bytes", default=None
    )
    expected_cache_bytes: int | None = column(
        "Size of the cache at the end, from the cost model.", unit="bytes", default=None
    )
    rates: Literal["probe", "published"] | None = column(
        "Source of the device's bandwidth and arithmetic rates.", default=None
    )
    floor_s: float | None = column(
        "Lower bound: the least time that the device's bandwidth and arithmetic allow.",
        unit="s",
        default=None,
    )
    expected_s: float | None = column(
        "Expected time: launches and matrix products at the rates of kvbench probe; with "
        "published rates, the lower bound.",
        unit="s",
        default=None,
    )
    expected_speedup: float | None = column(
        "Expected time of the baseline divided by that of this strategy, in the same case.",
        default=None,
    )
    expected_from: ExpectedFrom | None = column(
        "What the expected speedup is based on. products: launches and products of a decoder's "
        "sizes, as probed. layers: launches, and products at the rate of large ones, which is too "
        "optimistic without a cache. bounds: the lower bounds alone, launch cost unknown.",
        default=None,
    )
    mbu: float | None = column("Share of the device's bandwidth that was used.", default=None)
    mfu: float | None = column("Share of the device's arithmetic that was used.", default=None)
    limited_by: Limit | None = column(
        "bandwidth or arithmetic: the larger part of the lower bound; overhead: over 3 times the "
        "lower bound.",
        default=None,
    )
    room_bytes: int | None = column(
        "Out of memory: device memory that was free after the model was loaded.",
        unit="bytes",
        default=None,
    )
    needed_bytes: int | None = column(
        "Device memory that the case needs on top of the model, from theory.",
        unit="bytes",
        default=None,
    )
    fits_batch: int | None = column(
        "The largest batch that would fit with the same strategy, from theory.", default=None
    )
    fits_caches: str | None = column(
        "Other strategies that would fit with the same batch, the one that needs least first.",
        default=None,
    )
    kl_divergence: float | None = column(
        "As in quality.csv, the last time it was measured for this model and strategy; null for "
        "strategies that are exact.",
        unit="nats",
        default=None,
    )
    top1_agreement: float | None = column("As in quality.csv.", default=None)
    perplexity: float | None = column("As in quality.csv.", default=None)
    perplexity_ratio: float | None = column(
        "Perplexity through the cache over that without a cache.", default=None
    )
    perplexity_ratio_high: float | None = column("As in quality.csv.", default=None)
    token_agreement: float | None = column("As in quality.csv.", default=None)
    needles_found_ratio: float | None = column(
        "Hidden numbers that were found, over those that the same model found without a cache.",
        default=None,
    )
    cached_positions: int | None = column("As in samples.csv.", default=None)
    reuse_gain: float | None = column(
        "chat, reuse conversation: time to first token of the same turn with reuse turn, divided "
        "by that of this case; estimated like the speedup, from the ratios within rounds.",
        default=None,
    )
    reuse_gain_ci95_low: float | None = column(
        "95 % confidence interval of reuse_gain, from the exact signed-rank distribution; null "
        "below 6 rounds.",
        default=None,
    )
    reuse_gain_ci95_high: float | None = column("Upper end of the interval.", default=None)
    reuse_rounds: int | None = column(
        "Rounds used for reuse_gain; null without the reuse turn.", unit="rounds", default=None
    )

    @property
    def is_baseline(self) -> bool:
        """Whether this is what the others are compared with."""
        return self.cache == self.baseline


def summarize_cases(samples: Iterable[Sample], baseline: str = BASELINE) -> tuple[CaseSummary, ...]:
    """Return one summary per case, in the order first seen, then by size.

    If a sample was retried, only its last attempt counts. Speedups and ratios compare with the
    strategy `baseline`.
    """
    rows = latest(samples)
    cold = cold_starts(rows)
    by_case: dict[str, list[Sample]] = {}
    for sample in rows:
        by_case.setdefault(sample.case_id, []).append(sample)
    baselines = {
        pair_key(members[0], baseline): members
        for members in by_case.values()
        if members[0].cache == baseline
    }
    summaries = [
        _summarize(members, baselines.get(pair_key(members[0], baseline), []), cold, baseline)
        for members in by_case.values()
    ]
    return tuple(sorted(summaries, key=ReadingOrder(summaries)))


def _summarize(
    members: Sequence[Sample], others: Sequence[Sample], cold: Container[str], baseline: str
) -> CaseSummary:
    everything, ended = _counted(members), [s for s in members if s.status != "ok"]
    counted = _warm(everything, cold)
    first = members[0]
    known: dict[str, Any] = {name: getattr(first, name) for name in ("case_id", "use_cache", *AXES)}
    known["baseline"] = baseline
    known["prompt_tokens"] = _last(s.prompt_tokens for s in members)
    known["cached_positions"] = _last(s.cached_positions for s in members)
    known["attention_used"] = _last(s.attention_used for s in members)
    known |= {
        "status": ended[0].status if ended else "ok",
        "error": ended[0].error if ended else None,
        "samples": len(everything),
        "cold_starts": len(everything) - len(counted),
        "cold_start_s": _median(s.total_s for s in everything if s.sample_id in cold),
        **_first_pass(members),
    }
    if not counted:
        return CaseSummary(**known)
    total = _totals(counted)
    q1, q3 = np.percentile(total, [25, 75])
    known |= _flags(everything, total, known["cold_starts"]) | {
        "total_s_median": _median(total),
        "total_s_q1": float(q1),
        "total_s_q3": float(q3),
        "total_s_min": min(total),
        "total_s_max": max(total),
        "total_s_low": _median(s.total_s_low for s in counted),
        "total_s_high": _median(s.total_s_high for s in counted),
        "ttft_s_median": _median(s.ttft_s for s in counted),
        "itl_s_median": _median(s.itl_s for s in counted),
        "tokens_per_s_median": _median(s.tokens_per_s for s in counted),
        **{name: _median(getattr(s, name) for s in counted) for name in GAPS},
        "kv_cache_bytes": _last(s.kv_cache_bytes for s in counted),
        "cache_allocated_bytes": _last(s.cache_allocated_bytes for s in counted),
        "cache_host_bytes": _last(s.cache_host_bytes for s in counted),
        "cache_disk_bytes": _last(s.cache_disk_bytes for s in counted),
        "weights_bytes": _last(s.weights_bytes for s in counted),
        **_energy(counted),
    }
    known |= _memory(members)
    if first.cache != baseline:
        known |= _speedup(everything, _counted(others), cold)
    return CaseSummary(**known)


def _speedup(
    counted: Sequence[Sample], baseline: Sequence[Sample], cold: Container[str]
) -> dict[str, Any]:
    if not baseline:
        return {}
    off, on = _warm(baseline, cold), _warm(counted, cold)
    # An interrupted round may continue hours later, or in another process.
    rounds = {round_of(s): s.total_s for s in on if s.total_s}
    pairs = [(s.total_s, rounds[round_of(s)]) for s in off if s.total_s and round_of(s) in rounds]
    outputs = {s.output_sha256 for s in (*counted, *baseline)}
    known: dict[str, Any] = {
        "speedup_rounds": len(pairs),
        "same_output": None if None in outputs else len(outputs) == 1,
        **_energy_ratio(off, on),
    }
    if not pairs:
        return known | {"speedup": ratio_of_medians(_totals(off), _totals(on))}
    found = paired_ratio(*zip(*pairs, strict=True))
    ratios = [above / below for above, below in pairs]
    return known | {
        "speedup": found.ratio,
        "speedup_ci95_low": found.low,
        "speedup_ci95_high": found.high,
        "speedup_round_min": min(ratios),
        "speedup_round_max": max(ratios),
    }


def _first_pass(members: Sequence[Sample]) -> dict[str, Any]:
    """Return the time of the first full-length warm-up and of all compilation."""
    full = [s for s in members if s.phase == "warmup" and s.cold_after and s.total_s]
    compiling = [s.compile_s for s in members if s.compile_s is not None]
    return {
        "cold_s": full[0].total_s if full else None,
        "cold_after": full[0].cold_after if full else None,
        "compile_s": math.fsum(compiling) if compiling else None,
    }


def _warm(samples: Sequence[Sample], cold: Container[str]) -> list[Sample]:
    return [sample for sample in samples if sample.sample_id not in cold]


def _memory(members: Sequence[Sample]) -> dict[str, Any]:
    """Return the peak and its excess over the base for each sample, polled passes included."""
    counted = (s for s in members if s.phase != "warmup" and s.status == "ok")
    readings = [found for found in map(memory_readings, counted) if found]
    peaks = [found[0].peak for found in readings]
    # NVML's growth leaves out what fits into memory that the allocator already holds.
    needed = [next((r for r in found if r.method == "torch"), found[0]) for found in readings]
    over = [reading.peak - reading.before for reading in needed if reading.before is not None]
    return {
        "memory_peak_bytes": _whole(_median(peaks)),
        "memory_over_base_bytes": _whole(_median(over)),
        "memory_allocated_bytes": _whole(
            _median(r.peak for found in readings for r in found if r.method == "torch")
        ),
    }


def _flags(counted: Sequence[Sample], times: Sequence[float], cold: int) -> dict[str, Any]:
    """Return the reasons for doubt: flags of the samples, and what their times show together.

    `times` are those of the warm samples; `cold` is the number of cold ones.
    """
    counts = Counter(flag for s in counted for flag in (s.flags or "").split())
    far = len(outliers(times))
    counts += Counter(cold_start=cold, outlier=far)
    flags = {name: f"{name}:{count}" for name, count in counts.items()}
    change = None
    if len(times) < MIN_FOR_INTERVAL:
        flags["undersampled"] = "undersampled"
    else:
        found = trend(times)
        change = found.change
        if found.p_value < _TREND_LEVEL and abs(change) >= _LEAST_TREND:
            flags["trend"] = "trend"
    # List the lack of samples first.
    ordered = sorted(flags, key=lambda name: (name != "undersampled", name))
    return {
        "flags": " ".join(flags[name] for name in ordered) or None,
        "outliers": far,
        "trend": change,
    }


def _energy(counted: Sequence[Sample]) -> dict[str, Any]:
    """Return the energy per token of the samples that share the most common reading method."""
    by_method = _joules_by_method(counted)
    if not by_method:
        return {}
    method = max(by_method, key=lambda name: len(by_method[name]))
    joules = [one for _, one in by_method[method]]
    return {
        "energy_method": method,
        "energy_samples": len(joules),
        "energy_j_per_token": _median(joules),
        "energy_j_per_token_min": min(joules),
        "energy_j_per_token_max": max(joules),
    }


def _energy_ratio(off: Sequence[Sample], on: Sequence[Sample]) -> dict[str, Any]:
    """Return the ratio of energies that share a reading method, estimated as the speedup is."""
    above, below = _joules_by_method(off), _joules_by_method(on)
    shared = [name for name in above if name in below]
    if not shared:
        return {}
    method = max(shared, key=lambda name: min(len(above[name]), len(below[name])))
    # A counter that did not move has no ratio.
    first, second = ([one for one in arm[method] if one[1] > 0] for arm in (above, below))
    if not first or not second:
        return {}
    rounds = dict(second)
    pairs = [(joules, rounds[place]) for place, joules in first if place in rounds]
    if not pairs:
        ratio = ratio_of_medians([j for _, j in first], [j for _, j in second])
        return {"energy_rounds": 0, "energy_ratio": ratio}
    found = paired_ratio(*zip(*pairs, strict=True))
    return {
        "energy_rounds": len(pairs),
        "energy_ratio": found.ratio,
        "energy_ratio_ci95_low": found.low,
        "energy_ratio_ci95_high": found.high,
    }


_Joules = list[tuple[tuple[int, int, int], float]]
"""Joules per token of samples, each with its round."""


def _joules_by_method(samples: Sequence[Sample]) -> dict[str | None, _Joules]:
    found: dict[str | None, _Joules] = {}
    for sample in samples:
        if sample.energy_j is not None:
            joules = sample.energy_j / (sample.batch_size * sample.max_new_tokens)
            found.setdefault(sample.energy_method, []).append((round_of(sample), joules))
    return found


def pair_key(record: Sample | CaseSummary, baseline: str = "") -> tuple[object, ...]:
    """Return what a case and its baseline share: all but the cache strategy.

    Without a cache nothing is reused, so `off` is the baseline of all kinds of reuse.

    Args:
        record: a sample or a summary of the case.
        baseline: the strategy to compare with; by default the summary's own.
    """
    baseline = baseline or getattr(record, "baseline", BASELINE)
    return values_of(record, _PAIR if baseline == BASELINE else (*_PAIR, "reuse"))


def line_key(record: Sample | CaseSummary) -> tuple[object, ...]:
    """Return what cases share that differ only in the number of new tokens."""
    return values_of(record, (name for name in AXES if name != "max_new_tokens"))


def _counted(members: Sequence[Sample]) -> list[Sample]:
    return [s for s in members if s.phase == "measure" and s.status == "ok"]


def _totals(samples: Sequence[Sample]) -> list[float]:
    return [s.total_s for s in samples if s.total_s is not None]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _last(values: Iterable[T | None]) -> T | None:
    known = [value for value in values if value is not None]
    return known[-1] if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
