"""Trace: derive the rows of all shorter lengths from the stamps of one long generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kvbench.caches import CacheStrategy, strategy
from kvbench.errors import UserError
from kvbench.plan.case import Case, Task
from kvbench.records.sample import Sample, sample_of
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes

__all__ = [
    "Prefix",
    "can_trace",
    "checked_cache_bytes",
    "rows_of_trace",
]

_LENGTH_FREE = (
    "model_commit",
    "attention_used",
    "prompt_tokens",
    "cache_class",
    "cache_layers",
    "weights_bytes",
    "started_at",
    "session",
    "worker",
)
"""Columns that a prefix of a generation shares with the whole."""

_AT_THE_END = frozenset({"paused", "recompiled", "past_positions"})
"""Flags that depend on how far a generation went. The others hold for each prefix."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What is known about the first tokens of a generation besides their times.

    Attributes:
        new_tokens: how many tokens, per sequence.
        output_sha256: hash of their ids; null if the generation failed and its ids are lost.
        flags: flags of this prefix alone, such as `paused`.
    """

    new_tokens: int
    output_sha256: str | None = None
    flags: tuple[str, ...] = ()


def can_trace(entry: CacheStrategy) -> bool:
    """Return whether one pass is valid for all shorter lengths under a cache strategy.

    Measurements confirm this for caches that grow by what a step reads, and without a cache. If
    buffers are sized to the whole length, if anything compiles, or if a step's work is unknown, a
    shorter generation may do different work in each step.
    """
    return entry.attends in ("nothing", "seen") and entry.warmup != "full" and not entry.compiles


def rows_of_trace(
    whole: Sample,
    times: Sequence[float],
    tasks: Iterable[Task],
    prefixes: Iterable[Prefix] = (),
    architecture: Architecture | None = None,
) -> tuple[Sample, ...]:
    """Return a row for each task: the shorter lengths, and the longest itself.

    If the generation died at token k, the lengths below k get normal rows, and the rest get its
    failure. All have `method` trace and the sample id of the longest as `generation_id`. Peak
    memory and energy belong to the whole generation, and are null in the rows of its parts.

    Args:
        whole: the row of the longest length, ok or failed.
        times: seconds from its start to each new token; as many as were stamped if it failed.
        tasks: one for each length, in the same round; that of the longest among them.
        prefixes: the facts about the shorter lengths.
        architecture: for the bytes of the cache; None leaves them null.
    """
    known = {prefix.new_tokens: prefix for prefix in prefixes}
    # What `generate` does after its last token; a failed generation has not come that far.
    tail = (whole.total_s - times[-1]) if whole.total_s is not None and times else 0.0
    rows = []
    for task in tasks:
        tokens = task.new_tokens
        if task.sample_id == whole.sample_id:
            row = whole
        elif tokens <= len(times) and whole.status != "mismatch":
            prefix = known.get(tokens, Prefix(tokens))
            sizes = _sizes(whole, task, architecture)
            times_of_part = _times(times, tokens, tail, task.case.batch_size)
            row = _part(whole, task, prefix, times_of_part | sizes)
        else:
            row = _failed(whole, task)
        rows.append(dataclasses.replace(row, method="trace", generation_id=whole.sample_id))
    return tuple(rows)


def _times(
    times: Sequence[float], tokens: int, tail: float, batch_size: int
) -> dict[str, float | None]:
    """Return the time columns of the first tokens of a generation.

    Args:
        times: seconds from the start to each new token.
        tokens: how many of them.
        tail: seconds that `generate` takes after its last token.
        batch_size: sequences.
    """
    total, first = times[tokens - 1] + tail, times[0]
    return {
        "total_s": total,
        "ttft_s": first,
        "itl_s": (total - first) / (tokens - 1) if tokens > 1 else None,
        "tokens_per_s": batch_size * tokens / total,
    }


def _part(whole: Sample, task: Task, prefix: Prefix, fields: dict[str, Any]) -> Sample:
    shared = {name: getattr(whole, name) for name in _LENGTH_FREE}
    flags = [flag for flag in (whole.flags or "").split() if flag not in _AT_THE_END]
    return sample_of(
        task,
        **shared,
        **fields,
        new_tokens=prefix.new_tokens,
        output_sha256=prefix.output_sha256,
        flags=" ".join([*flags, *prefix.flags]) or None,
    )


def _failed(whole: Sample, task: Task) -> Sample:
    """Return the row of a length that the generation did not reach.

    If it completed, it was shorter than this task: the plan asked for the longest one.
    """
    if whole.status == "ok":
        raise ValueError(f"{task.sample_id} is longer than the generation it is to be read from")
    shared = {name: getattr(whole, name) for name in ("model_commit", "prompt_tokens")}
    failure = {name: getattr(whole, name) for name in ("stage", "error", "oom_bytes", "flags")}
    started = {name: getattr(whole, name) for name in ("started_at", "session", "worker")}
    return sample_of(task, status=whole.status, **shared, **failure, **started)


def _sizes(whole: Sample, task: Task, architecture: Architecture | None) -> dict[str, Any]:
    """Return the exact bytes of the cache of a prefix; null if they are uncertain."""
    measured = whole.kv_cache_bytes
    if measured is None:
        return {}
    checked = (whole.max_new_tokens, measured)
    found = checked_cache_bytes(task.case, whole.prompt_tokens, architecture, checked)
    # The allocated bytes are known if they equal the used bytes.
    same = whole.cache_allocated_bytes == measured
    return {
        "kv_cache_bytes": found,
        "cache_allocated_bytes": found if same else None,
        "cache_host_bytes": 0 if whole.cache_host_bytes == 0 else None,
    }


def checked_cache_bytes(
    case: Case,
    prompt_tokens: int | None,
    architecture: Architecture | None,
    checked: tuple[int, int],
) -> int | None:
    """Return the computed exact bytes of a case's cache; None if uncertain.

    Args:
        case: the case.
        prompt_tokens: its prompt's length, padding included.
        architecture: the model's architecture; None if theory cannot read it.
        checked: new tokens of a generation that differs only in length, and the bytes measured at
            its end, which the same arithmetic must reproduce.
    """
    if not strategy(case.cache).use_cache:
        return 0 if checked[1] == 0 else None
    if architecture is None or prompt_tokens is None:
        return None
    sizes = (case.batch_size, prompt_tokens)
    try:
        found, end = (
            cache_bytes(architecture, case.cache, *sizes, tokens, case.dtype)
            for tokens in (case.max_new_tokens, checked[0])
        )
    except UserError:
        # Theory does not know the dtype or the strategy.
        return None
    return found if end == checked[1] else None
