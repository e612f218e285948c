"""What the rows of a run say about its measurements: memory, cache bytes, cold samples."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from kvbench.analysis.expected import summarize_run
from kvbench.records.run import Run
from kvbench.records.sample import Sample


@dataclass(frozen=True)
class Growth:
    """Bytes by which memory grew during a sample, according to NVML and to torch's allocator.

    `cache` is the part of the cache on the device.
    """

    sample_id: str
    nvml: int
    reserved: int
    allocated: int
    cache: int


def growths(run: Run) -> list[Growth]:
    """Return the growth of each sample that has all the columns for it."""
    found = []
    for s in timed(run):
        nvml = _difference(s.nvml_peak_bytes, s.nvml_before_bytes)
        reserved = _difference(s.torch_peak_reserved_bytes, s.torch_reserved_before_bytes)
        allocated = _difference(s.torch_peak_allocated_bytes, s.torch_before_bytes)
        if None not in (nvml, reserved, allocated, s.kv_cache_bytes):
            # What an offloaded cache keeps in host memory takes nothing on the device.
            here = s.kv_cache_bytes - (s.cache_host_bytes or 0)
            found.append(Growth(s.sample_id, nvml, reserved, allocated, here))
    return found


def wrong_caches(run: Run) -> list[str]:
    """Return the cases whose cache bytes differ from theory, with both numbers.

    Raises:
        AssertionError: theory knows the cache of no case.
    """
    known = [c for c in summarize_run(run) if c.samples and c.expected_cache_bytes is not None]
    cached = [case for case in known if case.use_cache]
    assert cached
    return [
        f"{case.case_id}: {case.kv_cache_bytes}, in theory {case.expected_cache_bytes}"
        for case in cached
        if case.kv_cache_bytes != case.expected_cache_bytes
    ]


def cold_cases(run: Run) -> list[str]:
    """Return the cases whose first sample took twice as long as the median of the others."""
    cases: dict[str, list[Sample]] = {}
    for sample in timed(run):
        cases.setdefault(sample.case_id, []).append(sample)
    found = []
    for case_id, samples in cases.items():
        first, *others = [sample.total_s for sample in samples]
        if others and first > 2 * statistics.median(others):
            found.append(f"{case_id}: {first:.2f} s, then {statistics.median(others):.2f} s")
    return found


def timed(run: Run) -> list[Sample]:
    """Return the samples that count, in the order they were taken."""
    return [s for s in run.samples if s.phase == "measure" and s.status == "ok"]


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
