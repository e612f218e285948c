"""The outcome of a finished generation: its readings, the state of its cache, and the flags."""

from __future__ import annotations

import dataclasses
from typing import Any

from kvbench.caches import strategy
from kvbench.device_kinds import kind_of
from kvbench.devices.meter import trust_flags
from kvbench.measure.cache import (
    allocated_bytes,
    cache_bytes,
    cache_class,
    cache_layers,
    disk_bytes,
)
from kvbench.measure.generate import Generation
from kvbench.measure.open_model import Observed
from kvbench.methods import JobResult
from kvbench.models.load import LoadedModel
from kvbench.plan.case import AUTO, Task

__all__ = ["outcome_of"]


def outcome_of(
    loaded: LoadedModel,
    task: Task,
    started_at: str,
    fields: dict[str, Any],
    observed: Observed,
) -> JobResult:
    """Return the result of a finished job: a failure if tokens are missing or extra."""
    taken, generation = observed.taken, observed.taken.generation
    times = generation.token_times
    fields = fields | dataclasses.asdict(observed.readings) | _made_by(loaded, generation)
    if observed.compiled is not None:
        fields |= {
            "compilations": observed.compiled.count,
            "compile_s": observed.compiled.seconds,
        }
    fields["flags"] = _flags(loaded, task, fields, observed)
    if taken.steps is not None:
        return JobResult("ok", started_at, fields, taken.seconds, steps=taken.steps)
    if not generation.new_tokens == len(times) == task.new_tokens:
        error = (
            f"{task.new_tokens} tokens requested, {generation.new_tokens} generated, "
            f"{len(times)} timestamps"
        )
        fields |= {"stage": "decode", "error": error}
        return JobResult("mismatch", started_at, fields, times=times)
    return JobResult("ok", started_at, fields, taken.seconds, times)


def _made_by(loaded: LoadedModel, generation: Generation) -> dict[str, Any]:
    """Return what a generation produced: its tokens, and the size of its cache in bytes."""
    cache, state_bytes = generation.cache, generation.state.bytes
    on_host = kind_of(str(loaded.device)).is_host
    return {
        "new_tokens": generation.new_tokens,
        "attention_used": loaded.attention,
        "output_sha256": generation.output_sha256,
        "kv_cache_bytes": cache_bytes(cache) + state_bytes,
        "cache_allocated_bytes": allocated_bytes(cache) + state_bytes,
        "cache_host_bytes": None if on_host else allocated_bytes(cache, on_host=True),
        "cache_disk_bytes": disk_bytes(cache),
        "cache_page_size": getattr(cache, "page_size", None),
        "cache_occupancy": getattr(cache, "occupancy", None),
        "cache_class": cache_class(cache),
        "cache_layers": cache_layers(cache),
        "weights_bytes": loaded.weights_bytes,
    }


def _flags(
    loaded: LoadedModel, task: Task, fields: dict[str, Any], observed: Observed
) -> str | None:
    case, flags = task.case, (fields.get("flags") or "").split()
    if observed.paused:
        flags.append("paused")
    if task.phase == "measure" and observed.compiled is not None and observed.compiled.count:
        flags.append("recompiled")
    flags += trust_flags(observed.readings)
    if case.attention not in (AUTO, loaded.attention):
        flags.append(f"attention_is_{loaded.attention}")
    # Some models return a cache object that they never fill.
    signs = {fields["cache_class"] is not None, fields["kv_cache_bytes"] > 0}
    if signs != {strategy(case.cache).use_cache}:
        flags.append("cache_not_as_asked")
    if observed.taken.generation.state.unknown:
        flags.append("state_not_counted")
    return " ".join(flags) or None
