"""A run's samples become a summary: one row per case, with its speed-up over the other arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from kvbench.analysis.cases import ReadingOrder
from kvbench.analysis.statistics import MIN_FOR_INTERVAL, ratio_interval, ratio_of_medians
from kvbench.records.columns import column
from kvbench.records.sample import Sample, Status, latest, memory_readings
from kvbench.strategies import BASELINE
from kvbench.theory.floors import Limit

T = TypeVar("T")

__all__ = ["CaseSummary", "pair_key", "summarise_cases"]

_CASE_FIELDS = (
    "case_id",
    "model",
    "weights",
    "device",
    "dtype",
    "attention",
    "cache",
    "use_cache",
    "batch_size",
    "prompt",
    "max_new_tokens",
)
_PAIR_FIELDS = tuple(name for name in _CASE_FIELDS if name not in ("case_id", "cache", "use_cache"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSummary:
    """One case: medians over its counted samples. Null means not known, never zero."""

    case_id: str = column("As in samples.csv.")
    model: str = column("As in samples.csv.")
    weights: Literal["pretrained", "random"] = column("As in samples.csv.")
    device: str = column("As in samples.csv.")
    dtype: str = column("As in samples.csv.")
    attention: str = column("As in samples.csv.")
    cache: str = column("As in samples.csv.")
    use_cache: bool = column("As in samples.csv.")
    batch_size: int = column("As in samples.csv.", unit="sequences")
    prompt: str = column("As in samples.csv.")
    prompt_tokens: int | None = column("As in samples.csv.", unit="tokens")
    max_new_tokens: int = column("As in samples.csv.", unit="tokens")
    status: Status = column("ok, or the status of the sample that ended the case.")
    error: str | None = column("The error of that sample.", default=None)
    attention_used: str | None = column("As in samples.csv.", default=None)
    samples: int = column("Counted samples: phase measure, status ok.", unit="samples")
    flags: str | None = column(
        "undersampled (fewer than 5 samples), and the samples' flags with the number of samples, "
        "such as busy_cpu:2.",
        default=None,
    )
    total_s_median: float | None = column("Median wall time of generate().", unit="s", default=None)
    total_s_q1: float | None = column("First quartile of it.", unit="s", default=None)
    total_s_q3: float | None = column("Third quartile of it.", unit="s", default=None)
    total_s_min: float | None = column("Smallest of it.", unit="s", default=None)
    total_s_max: float | None = column("Largest of it.", unit="s", default=None)
    ttft_s_median: float | None = column("Median time to first token.", unit="s", default=None)
    itl_s_median: float | None = column(
        "Median of the mean time between tokens.", unit="s", default=None
    )
    tokens_per_s_median: float | None = column(
        "Median of new tokens of the batch over time.", unit="tokens/s", default=None
    )
    speedup: float | None = column(
        "Median time of the strategy off over this one's, same case otherwise.", default=None
    )
    speedup_ci95_low: float | None = column(
        "95 % percentile bootstrap interval of the speed-up; null under 5 samples in an arm.",
        default=None,
    )
    speedup_ci95_high: float | None = column("Upper end of it.", default=None)
    speedup_rounds: int | None = column(
        "Rounds in which both arms were timed, in one session; null without a pair.",
        unit="rounds",
        default=None,
    )
    speedup_round_min: float | None = column(
        "Smallest speed-up within one round, the arms next to each other in time.", default=None
    )
    speedup_round_max: float | None = column("Largest of them.", default=None)
    same_output: bool | None = column(
        "Whether all samples of both arms made the same tokens; null without a pair.", default=None
    )
    kv_cache_bytes: int | None = column(
        "Exact size of the cache at the end.", unit="bytes", default=None
    )
    weights_bytes: int | None = column(
        "Size of parameters and buffers.", unit="bytes", default=None
    )
    memory_peak_bytes: int | None = column(
        "What the machine must have: median peak of NVML's used memory on CUDA (torch's allocated "
        "without NVML), of the resident set on the CPU.",
        unit="bytes",
        default=None,
    )
    memory_over_base_bytes: int | None = column(
        "What the case needs on top of the model: median of the peak less what was in use before "
        "the run; on CUDA of torch's allocator.",
        unit="bytes",
        default=None,
    )
    memory_allocated_bytes: int | None = column(
        "CUDA: median peak of what torch's allocator had given out, weights included.",
        unit="bytes",
        default=None,
    )
    energy_j_per_token: float | None = column(
        "Median energy of the board per new token.", unit="J", default=None
    )
    flops: int | None = column(
        "FLOPs of one generation in closed form; this and what follows is null where theory or the "
        "device's rates are not known: see docs/theory.md.",
        unit="FLOP",
        default=None,
    )
    moved_bytes: int | None = column(
        "Bytes of weights and cache that one generation has to read.", unit="bytes", default=None
    )
    expected_cache_bytes: int | None = column(
        "Size of the cache at the end by theory.", unit="bytes", default=None
    )
    rates: Literal["probe", "published"] | None = column(
        "Where the device's bandwidth and arithmetic come from.", default=None
    )
    floor_s: float | None = column(
        "The least time that the device's bandwidth and arithmetic allow.", unit="s", default=None
    )
    expected_s: float | None = column(
        "The floor, and what kvbench probe found that layers and products of few rows take beyond "
        "it; the floor alone of published rates.",
        unit="s",
        default=None,
    )
    expected_speedup: float | None = column(
        "Expected time of the strategy off over this one's, same case otherwise.", default=None
    )
    mbu: float | None = column("Share of the bandwidth that was used.", default=None)
    mfu: float | None = column("Share of the arithmetic that was used.", default=None)
    limited_by: Limit | None = column(
        "bandwidth or arithmetic: most of the floor; overhead: it took over 3 times its floor.",
        default=None,
    )


def summarise_cases(samples: Iterable[Sample]) -> tuple[CaseSummary, ...]:
    """One summary per case: sorted by everything but size as first seen, then by size.

    Of a sample that was tried again the last attempt counts.
    """
    by_case: dict[str, list[Sample]] = {}
    for sample in latest(samples):
        by_case.setdefault(sample.case_id, []).append(sample)
    baselines = {
        pair_key(members[0]): members
        for members in by_case.values()
        if members[0].cache == BASELINE
    }
    summaries = [
        _summarise(members, baselines.get(pair_key(members[0]), [])) for members in by_case.values()
    ]
    return tuple(sorted(summaries, key=ReadingOrder(summaries)))


def _summarise(members: Sequence[Sample], baseline: Sequence[Sample]) -> CaseSummary:
    counted, ended = _counted(members), [s for s in members if s.status != "ok"]
    first = members[0]
    known: dict[str, Any] = {name: getattr(first, name) for name in _CASE_FIELDS}
    known["prompt_tokens"] = _last(s.prompt_tokens for s in members)
    known["attention_used"] = _last(s.attention_used for s in members)
    known |= {
        "status": ended[0].status if ended else "ok",
        "error": ended[0].error if ended else None,
        "samples": len(counted),
        "flags": _flags(counted),
    }
    if not counted:
        return CaseSummary(**known)
    total = [s.total_s for s in counted if s.total_s is not None]
    q1, q3 = np.percentile(total, [25, 75])
    known |= {
        "total_s_median": _median(total),
        "total_s_q1": float(q1),
        "total_s_q3": float(q3),
        "total_s_min": min(total),
        "total_s_max": max(total),
        "ttft_s_median": _median(s.ttft_s for s in counted),
        "itl_s_median": _median(s.itl_s for s in counted),
        "tokens_per_s_median": _median(s.tokens_per_s for s in counted),
        "kv_cache_bytes": _last(s.kv_cache_bytes for s in counted),
        "weights_bytes": _last(s.weights_bytes for s in counted),
        "energy_j_per_token": _median(_joules_per_token(s) for s in counted),
    }
    known |= _memory(members) | _speedup(counted, _counted(baseline))
    return CaseSummary(**known)


def _speedup(counted: Sequence[Sample], baseline: Sequence[Sample]) -> dict[str, Any]:
    if not baseline or counted[0].cache == BASELINE:
        return {}
    off, on = _totals(baseline), _totals(counted)
    low, high = ratio_interval(off, on) or (None, None)
    # A round that was broken off goes on in a later session, perhaps hours later.
    rounds = {(s.session, s.round): s.total_s for s in counted if s.total_s}
    ratios = [
        s.total_s / rounds[s.session, s.round]
        for s in baseline
        if s.total_s and (s.session, s.round) in rounds
    ]
    outputs = {s.output_sha256 for s in (*counted, *baseline)}
    return {
        "speedup": ratio_of_medians(off, on),
        "speedup_ci95_low": low,
        "speedup_ci95_high": high,
        "speedup_rounds": len(ratios),
        "speedup_round_min": min(ratios, default=None),
        "speedup_round_max": max(ratios, default=None),
        "same_output": None if None in outputs else len(outputs) == 1,
    }


def _memory(members: Sequence[Sample]) -> dict[str, Any]:
    """Peak and peak over base of each sample that has them; polled passes count too."""
    counted = (s for s in members if s.phase != "warmup" and s.status == "ok")
    readings = [found for found in map(memory_readings, counted) if found]
    peaks = [found[0].peak for found in readings]
    # NVML's growth leaves out what fits into memory that the allocator holds already.
    needed = [next((r for r in found if r.method == "torch"), found[0]) for found in readings]
    over = [reading.peak - reading.before for reading in needed if reading.before is not None]
    return {
        "memory_peak_bytes": _whole(_median(peaks)),
        "memory_over_base_bytes": _whole(_median(over)),
        "memory_allocated_bytes": _whole(
            _median(r.peak for found in readings for r in found if r.method == "torch")
        ),
    }


def _flags(counted: Sequence[Sample]) -> str | None:
    counts = Counter(flag for s in counted for flag in (s.flags or "").split())
    flags = [f"{name}:{count}" for name, count in sorted(counts.items())]
    if 0 < len(counted) < MIN_FOR_INTERVAL:
        flags.insert(0, "undersampled")
    return " ".join(flags) or None


def _joules_per_token(sample: Sample) -> float | None:
    if sample.energy_j is None:
        return None
    return sample.energy_j / (sample.batch_size * sample.max_new_tokens)


def pair_key(record: Sample | CaseSummary) -> tuple[object, ...]:
    """What the arms of one pair share: the case without the cache strategy."""
    return tuple(getattr(record, name) for name in _PAIR_FIELDS)


def _counted(members: Sequence[Sample]) -> list[Sample]:
    return [s for s in members if s.phase == "measure" and s.status == "ok"]


def _totals(samples: Sequence[Sample]) -> list[float]:
    return [s.total_s for s in samples if s.total_s is not None]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _last(values: Iterable[T | None]) -> T | None:
    known = [value for value in values if value is not None]
    return known[-1] if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
