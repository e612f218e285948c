"""One timed generation of one case, a row of samples.csv."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal, get_args

from kvbench.plan.case import Phase, Task
from kvbench.records.case import CaseRecord, case_columns
from kvbench.records.columns import Amount, Number, Seconds, axes_after, column

__all__ = [
    "MEMORY_COLUMNS",
    "STATUSES",
    "MemoryReading",
    "Round",
    "Sample",
    "Stage",
    "Status",
    "cost_s",
    "latest",
    "latest_rows",
    "memory_readings",
    "reading_method",
    "round_of",
    "sample_at",
    "sample_of",
    "utc_now",
    "with_flag",
]

Status = Literal["ok", "oom", "skipped_oom", "timeout", "crashed", "unsupported", "mismatch"]
Stage = Literal["load", "prefill", "decode"]

STATUSES: tuple[str, ...] = get_args(Status)


@axes_after("flags")
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(CaseRecord):
    """One timed generation. Null means unknown, never zero.

    Sizes of the case are per sequence; times are for the whole batch.
    """

    # Identity
    sample_id: str = column(
        "Unique in the run: case id, phase letter, repeat, and the attempt from the second on. "
        "Joins tokens.csv."
    )
    case_id: str = column("First ten hexadecimal digits of the SHA-256 of the case's key.")
    phase: Phase = column(
        "measure: counted. warmup: before the first one, at the same shapes. memory: an untimed "
        "pass, only where memory cannot be read without disturbing the time."
    )
    round: Number = column("Round in which the sample was taken: one pass over the group, from 0.")
    repeat: Number = column("Number among the samples of this case and phase, from 0.")
    attempt: Number = column(
        "Earlier recordings of this sample: 0, or more for a failure retried after a resume or a "
        "warm-up of a new worker. The last attempt counts.",
        default=0,
    )
    session: Number = column(
        "Session that took the sample, from 0: each start of the sweep is one; run.json "
        "lists them.",
        default=0,
    )
    worker: Number = column(
        "Worker process of this session that took the sample, from 0; a lost worker is replaced "
        "by a new one. Only samples of one session and worker are compared within a round.",
        default=0,
    )
    started_at: str = column("UTC time of the start, ISO 8601.")
    status: Status = column(
        "ok, or why there is no time: oom (out of memory), skipped_oom (a case that needs no more "
        "memory ran out of it), timeout, crashed (the model raised an error or its process died), "
        "unsupported (the model cannot do it), mismatch (wrong number of new tokens)."
    )
    stage: Stage | None = column("Where it failed: load, prefill or decode.", default=None)
    error: str | None = column("What went wrong, in one line.", default=None)
    oom_bytes: Number | None = column(
        "Out of memory: size of the failed allocation, if the message states it; CUDA rounds it.",
        unit="bytes",
        default=None,
    )
    room_bytes: Number | None = column(
        "Out of memory: device memory that was free after the model was loaded, as the system "
        "reported it.",
        unit="bytes",
        default=None,
    )
    flags: str | None = column(
        "Warnings about the sample, separated by spaces; see Flags in docs/columns.md.",
        default=None,
    )

    model_commit: str | None = column(
        "Hub commit of the model; null for local files and built-in configurations.",
        default=None,
    )
    attention_used: str | None = column(
        "Attention implementation that was used, with auto resolved.", default=None
    )

    # The work and the time
    new_tokens: Number | None = column(
        "New tokens generated, per sequence; a short warm-up generates fewer than the case.",
        unit="tokens",
        default=None,
    )
    total_s: Seconds | None = column(
        "Wall time of generate(), with the device synchronized before and after.",
        unit="s",
        default=None,
    )
    ttft_s: Seconds | None = column("Time to first token: the prefill.", unit="s", default=None)
    itl_s: Amount | None = column(
        "Mean time between tokens, (total_s - ttft_s) / (new_tokens - 1).", unit="s", default=None
    )
    tokens_per_s: Amount | None = column(
        "New tokens of the whole batch over total_s.", unit="tokens/s", default=None
    )
    gap_p50_s: Amount | None = column(
        "Median time between two tokens of this generation.", unit="s", default=None
    )
    gap_p90_s: Amount | None = column(
        "90th percentile of the time between two tokens.", unit="s", default=None
    )
    gap_p99_s: Amount | None = column(
        "99th percentile of the time between two tokens.", unit="s", default=None
    )
    gap_max_s: Amount | None = column(
        "Longest time between two tokens: a stall, for example while a buffer grows.",
        unit="s",
        default=None,
    )
    generation_id: str | None = column(
        "trace: the sample of the longest length, from whose generation this row is read; its "
        "timestamps in tokens.csv serve all of these rows. chat: the sample of the last turn of "
        "the conversation; each turn has its own timestamps.",
        default=None,
    )
    cached_positions: Number | None = column(
        "chat: positions of the history that were in the cache when the turn began.", default=None
    )
    total_s_low: Amount | None = column(
        "sampled: lower end of the 95 % interval of total_s, from leaving out single positions.",
        unit="s",
        default=None,
    )
    total_s_high: Amount | None = column(
        "sampled: upper end of that interval.", unit="s", default=None
    )
    sampling_s: Amount | None = column(
        "sampled: how long measuring the steps took; the same for all lengths estimated from them.",
        unit="s",
        default=None,
    )
    compilations: Number | None = column(
        "Compilations during the run, for strategies that compile; 0 once warm.",
        default=None,
    )
    compile_s: Amount | None = column(
        "Time spent compiling, for strategies that compile; null for those that do not.",
        unit="s",
        default=None,
    )
    cold_after: str | None = column(
        "On a full-length warm-up: what had already run with this model in its process; total_s of "
        "that row is the time of the first pass.",
        default=None,
    )
    output_sha256: str | None = column(
        "First sixteen hexadecimal digits of the SHA-256 of the new token ids (row by row, 64-bit "
        "little-endian): equal for all strategies if the cache changes nothing but time.",
        default=None,
    )

    # Memory
    kv_cache_bytes: Number | None = column(
        "Exact size of the tensors in the cache object after the run, including recurrent states "
        "kept on the model's modules; a view counts at the size it shows; 0 without a cache.",
        unit="bytes",
        default=None,
    )
    cache_allocated_bytes: Number | None = column(
        "Exact size of the memory behind those tensors, each storage counted once: what the cache "
        "occupies, used or not; 0 without a cache.",
        unit="bytes",
        default=None,
    )
    cache_host_bytes: Number | None = column(
        "CUDA: the part of cache_allocated_bytes that is in host memory.",
        unit="bytes",
        default=None,
    )
    cache_disk_bytes: Number | None = column(
        "Size of the files of a disk cache, used or not; not part of cache_allocated_bytes.",
        unit="bytes",
        default=None,
    )
    cache_page_size: Number | None = column(
        "Positions per page, for paged caches.",
        default=None,
    )
    cache_occupancy: float | None = column(
        "Share of the pool's pages in use at the end.",
        default=None,
    )
    cache_class: str | None = column("Class of the cache object that was used.", default=None)
    cache_layers: str | None = column("Classes of its layers, with counts.", default=None)
    weights_bytes: Number | None = column(
        "Size of the model's parameters and buffers.", unit="bytes", default=None
    )
    rss_before_bytes: Number | None = column(
        "CPU: resident set just before the run.", unit="bytes", default=None
    )
    rss_peak_bytes: Number | None = column(
        "CPU: largest resident set during the run.", unit="bytes", default=None
    )
    torch_before_bytes: Number | None = column(
        "CUDA: bytes that torch's allocator had allocated before the run.",
        unit="bytes",
        default=None,
    )
    torch_reserved_before_bytes: Number | None = column(
        "CUDA: bytes that torch's allocator had reserved on the device before the run. Free space "
        "in them is filled first, so NVML's growth understates what a run needs.",
        unit="bytes",
        default=None,
    )
    torch_peak_allocated_bytes: Number | None = column(
        "CUDA: peak of the bytes allocated by torch's allocator during the run.",
        unit="bytes",
        default=None,
    )
    torch_peak_reserved_bytes: Number | None = column(
        "CUDA: peak of the bytes reserved by torch's allocator during the run.",
        unit="bytes",
        default=None,
    )
    nvml_before_bytes: Number | None = column(
        "CUDA: NVML's used memory of the device before the run, all processes.",
        unit="bytes",
        default=None,
    )
    nvml_peak_bytes: Number | None = column(
        "CUDA: the same after the run, before anything was freed. Includes context, allocator and "
        "libraries; torch returns nothing during a run, so this is the peak.",
        unit="bytes",
        default=None,
    )
    nvml_process_bytes: Number | None = column(
        "CUDA: NVML's figure for this process after the run; null in most containers.",
        unit="bytes",
        default=None,
    )
    memory_method: str | None = column(
        "How the peak was read: vmhwm or rss-polled on a CPU; on CUDA nvml-used-v2, "
        "nvml-used+torch-allocator (memory that the driver reserves is counted as used: old "
        "drivers, and runs made before nvml-used-v2), or torch-allocator. Memory is compared only "
        "within one method.",
        default=None,
    )

    # Energy
    energy_j: Amount | None = column(
        "Energy during the run. CUDA: of the whole board, null below 1 s. CPU: of all processor "
        "packages, other processes included, null below 0.1 s. Null without a readable counter; "
        "never an estimate.",
        unit="J",
        default=None,
    )
    energy_method: str | None = column(
        "How it was read: nvml-total-energy, rapl-package, or none with the reason.", default=None
    )

    # Trust
    gpu_other_processes: Number | None = column(
        "Other processes on the device after the run.", default=None
    )
    gpu_throttle_reasons: str | None = column(
        "Reasons for reduced clocks, after the run.", default=None
    )
    gpu_sm_clock_mhz: Number | None = column("SM clock after the run.", unit="MHz", default=None)
    gpu_temperature_c: int | None = column(
        "Temperature of the GPU after the run.", unit="°C", default=None
    )
    load_average: Amount | None = column("Load average of the last minute.", default=None)
    other_cpu_share: Amount | None = column(
        "Share of the machine's CPU time used by other processes during the run; null below 0.2 s.",
        default=None,
    )
    cpu_governor: str | None = column("Frequency governor of the first CPU.", default=None)


MEMORY_COLUMNS = {
    "nvml": ("nvml_peak_bytes", "nvml_before_bytes"),
    "torch": ("torch_peak_allocated_bytes", "torch_before_bytes"),
    "rss": ("rss_peak_bytes", "rss_before_bytes"),
}
"""Columns of the peak, and of the memory in use before, by reading method, best first."""


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """The peak during a sample and the memory in use before it, bytes, and the reading method."""

    method: str
    peak: int
    before: int | None


def reading_method(kind: str, memory_method: str | None) -> str:
    """Return the name of the method within which readings are comparable.

    Args:
        kind: a key of `MEMORY_COLUMNS`.
        memory_method: the sample's column of that name. NVML has two meanings of used memory.
    """
    return memory_method or kind if kind == "nvml" else kind


def sample_of(task: Task, *, status: Status = "ok", **fields: Any) -> Sample:
    """Return a sample of a task: the task's own values, then `fields`, the rest null."""
    case = task.case
    known: dict[str, Any] = {
        "sample_id": task.sample_id,
        "case_id": case.id,
        "phase": task.phase,
        "round": task.round,
        "repeat": task.repeat,
        "attempt": task.attempt,
        "started_at": utc_now(),
        "status": status,
        **case_columns(case),
    }
    return Sample(**(known | fields))


def memory_readings(sample: Sample) -> tuple[MemoryReading, ...]:
    """Return the memory readings of a sample, best method first; empty if nothing was read.

    The order is NVML's used memory, torch's allocator, the resident set.
    """
    found = (
        (
            reading_method(kind, sample.memory_method),
            getattr(sample, peak),
            getattr(sample, before),
        )
        for kind, (peak, before) in MEMORY_COLUMNS.items()
    )
    return tuple(
        MemoryReading(method, peak, before) for method, peak, before in found if peak is not None
    )


def cost_s(sample: Sample) -> float:
    """Return the seconds that taking a sample took; 0 if unknown."""
    return (sample.total_s if sample.sampling_s is None else sample.sampling_s) or 0.0


def with_flag(sample: Sample, flag: str) -> Sample:
    """Return the sample with another reason to doubt it."""
    return dataclasses.replace(sample, flags=" ".join([*(sample.flags or "").split(), flag]))


_SAME_SAMPLE = ("case_id", "phase", "repeat")
"""What rows have in common that are attempts at one sample."""
_ATTEMPTED = attrgetter(*_SAME_SAMPLE)


Round = tuple[int, int, int]
"""Session, worker process and number: all samples of a round come from one process."""


def round_of(sample: Sample) -> Round:
    """Return the round in which a sample was taken."""
    return sample.session, sample.worker, sample.round


def latest(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the samples without retried attempts, in the order of the first attempts."""
    return tuple({_ATTEMPTED(sample): sample for sample in samples}.values())


def latest_rows(columns: Mapping[str, Sequence[Any]]) -> tuple[int, ...]:
    """Return the same for samples by column: the rows, counted from 0."""
    attempts = zip(*(columns[name] for name in _SAME_SAMPLE), strict=True)
    return tuple({attempt: row for row, attempt in enumerate(attempts)}.values())


def sample_at(columns: Mapping[str, Sequence[Any]], row: int) -> Sample:
    """Return the sample in a row, counted from 0, of samples by column."""
    return Sample(**{name: values[row] for name, values in columns.items()})


def utc_now() -> str:
    """Return the current time, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
