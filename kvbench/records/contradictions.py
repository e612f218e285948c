"""Find contradictions inside samples.csv, or with run.json: manual edits are not trusted."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from kvbench.caches import BASELINE
from kvbench.device_kinds import kind_of
from kvbench.errors import UserError
from kvbench.plan.axes import AXES, MODEL_AXES
from kvbench.plan.case import Case, Prompt
from kvbench.text import clip

__all__ = ["check_samples"]

Columns = Mapping[str, Sequence[Any]]
Found = Iterator[tuple[int, str]]
"""Rows, counted from 0, with the error in each."""

_CASE = tuple(AXES)
_SAME = 1e-6
"""The relative difference allowed between related values: they are written with all their digits.
"""

_RSS_SLACK = 32 << 20
"""Bytes of tolerance: the kernel counts per processor and sums up only now and then."""

_DIGEST = re.compile(r"[0-9a-f]{16}")
_LETTERS = {"warmup": "w", "measure": "s", "memory": "m"}


def check_samples(
    file: Path, columns: Columns, planned: Sequence[Mapping[str, Any]], sessions: int
) -> None:
    """Refuse contradictions within a row, within a case, or with the run.

    It works by column, not by row: a run may have a hundred thousand samples.

    Args:
        file: the path of samples.csv, for the message.
        columns: its values; None for missing ones.
        planned: the cases in run.json.
        sessions: how often the sweep started.

    Raises:
        UserError: there is a contradiction; the message names the first sample and what it
            contradicts.
    """
    checks = (_ids, _cases(planned), _outcomes, _work, _times, _memory, _sessions(sessions))
    # The product of hand-written numbers may be too large for a float: it is then infinite.
    with np.errstate(all="ignore"):
        for row, what in itertools.chain.from_iterable(check(columns) for check in checks):
            name = clip(columns["sample_id"][row])
            raise UserError(
                f"{file}: sample {name} is inconsistent: {what}.",
                kind="contradiction",
                sample=name,
            )


def _ids(columns: Columns) -> Found:
    names = ("sample_id", "case_id", "phase", "repeat", "attempt")
    attempts: Counter[tuple[object, ...]] = Counter()
    seen: set[str] = set()
    for row, (name, case, phase, repeat, attempt) in enumerate(_rows(columns, names)):
        if name in seen:
            yield row, "duplicate sample_id"
        seen.add(name)
        again = f"-{attempt + 1}" if attempt else ""
        if name != f"{case}-{_LETTERS.get(phase)}{repeat:03d}{again}":
            yield row, "its sample_id does not match its case, phase, repeat and attempt"
        if attempt > attempts[case, phase, repeat]:
            yield row, f"it is attempt {attempt + 1}, but {attempt} earlier ones are missing"
        attempts[case, phase, repeat] += 1


def _cases(planned: Sequence[Mapping[str, Any]]) -> Callable[[Columns], Found]:
    known = {str(case.get("case_id")): case for case in planned}

    def check(columns: Columns) -> Found:
        first: dict[str, tuple[object, ...]] = {}
        for row, (case, *values) in enumerate(_rows(columns, ("case_id", *_CASE))):
            if case in first:
                if first[case] != tuple(values):
                    other = _differing(dict(zip(_CASE, first[case], strict=True)), values)
                    yield row, f"its {other} differs from the other samples of its case"
                continue
            first[case] = tuple(values)
            if case in known:
                # run.json defines the case, also one of a version with more fields.
                if other := _differing(known[case], values):
                    yield row, f"its {other} differs from its case in run.json"
            elif _id(values) != case:
                yield row, "its case_id does not match its model, sizes and other fields"
        for row, (cache, uses) in enumerate(_rows(columns, ("cache", "use_cache"))):
            if uses != (cache != BASELINE):
                yield row, f"use_cache is {str(uses).lower()} with strategy {clip(cache)}"
        yield from _one_value(columns, "prompt_tokens", ("case_id",), "of its case")
        yield from _one_value(
            columns,
            "weights_bytes",
            ("session", *MODEL_AXES),
            "of its model",
        )
        for row, (prompt, tokens) in enumerate(_rows(columns, ("prompt", "prompt_tokens"))):
            if tokens is not None and prompt.startswith("tokens:") and prompt != f"tokens:{tokens}":
                yield row, f"its prompt is {clip(prompt)}, but prompt_tokens is {tokens}"

    return check


def _differing(case: Mapping[str, Any], values: Sequence[object]) -> str | None:
    """Return the first field in which a case and a row differ; missing fields are skipped."""
    for name, value in zip(_CASE, values, strict=True):
        said = case.get(name, value)
        if name == "prompt" and isinstance(said, Mapping):
            said = said.get("label", value)
        if said != value:
            return name
    return None


def _id(values: Sequence[Any]) -> str:
    named = dict(zip(_CASE, values, strict=True))
    return Case(**(named | {"prompt": Prompt(named["prompt"])})).id


def _one_value(columns: Columns, name: str, of: Sequence[str], whose: str) -> Found:
    """Return the rows whose value differs from the first one of the same model or case."""
    first: dict[tuple[object, ...], object] = {}
    for row, (value, *key) in enumerate(_rows(columns, (name, *of))):
        if value is not None and first.setdefault(tuple(key), value) != value:
            yield row, f"its {name} differs from the other samples {whose}"


def _outcomes(columns: Columns) -> Found:
    names = ("phase", "status", "error", "stage", "oom_bytes", "total_s")
    for row, (phase, status, error, stage, oom, total) in enumerate(_rows(columns, names)):
        if status == "ok":
            if phase == "measure" and total is None:
                yield row, "status ok without total_s"
            if error is not None or stage is not None:
                yield row, "status ok with an error or a stage"
        elif status != "mismatch" and total is not None:
            yield row, f"status {status} with a total_s"
        if oom is not None and status != "oom":
            yield row, f"status {status} with oom_bytes"


def _work(columns: Columns) -> Found:
    tokens, asked = _numbers(columns, "new_tokens"), _numbers(columns, "max_new_tokens")
    ok = _equal(columns, "status", "ok")
    measured = ok & _equal(columns, "phase", "measure")
    yield from _where(
        measured & (tokens != asked) & ~np.isnan(tokens),
        "status ok, but new_tokens is not max_new_tokens",
    )
    yield from _where(ok & (tokens > asked), "new_tokens is more than max_new_tokens")
    yield from _where(ok & (tokens < 1), "status ok without any new tokens")
    shas = columns["output_sha256"]
    wrong = {text for text in set(shas) if text is not None and not _DIGEST.fullmatch(text)}
    yield from (
        (row, "output_sha256 is not a digest") for row, sha in enumerate(shas) if sha in wrong
    )


def _times(columns: Columns) -> Found:
    total, first = _numbers(columns, "total_s"), _numbers(columns, "ttft_s")
    tokens, batch = _tokens(columns), _numbers(columns, "batch_size")
    step, rate = _numbers(columns, "itl_s"), _numbers(columns, "tokens_per_s")
    yield from _where(first > total * (1 + _SAME), "ttft_s is longer than total_s")
    yield from _where(
        abs(rate * total - batch * tokens) > _SAME * batch * tokens,
        "tokens_per_s is not batch_size times new_tokens over total_s",
    )
    # Compare with the total, since the difference of two times has fewer digits.
    yield from _where(
        (tokens > 1) & (abs(step * (tokens - 1) - (total - first)) > _SAME * total),
        "itl_s is not (total_s - ttft_s) over the steps",
    )
    for name, values in (("ttft_s", first), ("itl_s", step), ("tokens_per_s", rate)):
        yield from _where(~np.isnan(values) & np.isnan(total), f"{name} without total_s")
    for name, values in (("itl_s", step), ("tokens_per_s", rate)):
        yield from _where(~np.isnan(values) & np.isnan(tokens), f"{name} without new_tokens")
    low, high = _numbers(columns, "total_s_low"), _numbers(columns, "total_s_high")
    yield from _where((low > total) | (high < total), "total_s is outside its interval")
    spent = _numbers(columns, "compile_s")
    yield from _where(spent > total * (1 + _SAME), "compile_s is longer than total_s")


def _tokens(columns: Columns) -> np.ndarray:
    """Return the tokens that the times are for; where no tokens were kept, those asked for."""
    tokens, asked = _numbers(columns, "new_tokens"), _numbers(columns, "max_new_tokens")
    estimated = _equal(columns, "method", "sampled") & np.isnan(tokens)
    return np.where(estimated, asked, tokens)


def _memory(columns: Columns) -> Found:
    """Check peaks of counters that are reset before a run; NVML's is of all processes."""
    for before, peak, slack in (
        ("torch_before_bytes", "torch_peak_allocated_bytes", 0),
        ("torch_peak_allocated_bytes", "torch_peak_reserved_bytes", 0),
        ("rss_before_bytes", "rss_peak_bytes", _RSS_SLACK),
    ):
        low, high = _numbers(columns, before), _numbers(columns, peak)
        yield from _where(high + slack < low, f"{peak} is less than {before}")
    on_cpu = np.array([kind_of(name).is_host for name in columns["device"]], dtype=bool)
    for name in columns:
        if name.startswith(("torch_", "nvml_", "gpu_")):
            there = np.array([value is not None for value in columns[name]], dtype=bool)
            yield from _where(on_cpu & there, f"it ran on a CPU but has {name}")
    yield from _where(_numbers(columns, "other_cpu_share") > 1, "other_cpu_share is more than 1")


def _sessions(count: int) -> Callable[[Columns], Found]:
    def check(columns: Columns) -> Found:
        last = 0
        for row, (session, started) in enumerate(_rows(columns, ("session", "started_at"))):
            if session >= count:
                yield row, f"its session is {session}, but run.json has {count}"
            if session < last:
                yield row, f"its session is {session}, which follows rows of session {last}"
            last = session
            if not _is_time(started):
                yield row, f"started_at is {clip(started)!r}, which is not an ISO 8601 time"

    return check


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _rows(columns: Columns, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(columns[name] for name in names), strict=True)


def _numbers(columns: Columns, name: str) -> np.ndarray:
    """Return a column as floats, null as NaN, which compares neither above nor below anything."""
    try:
        return np.array(columns[name], dtype=float)
    except OverflowError:
        # An integer of more than 308 digits.
        return np.array([None if v is None else float(min(v, 2**63)) for v in columns[name]], float)


def _equal(columns: Columns, name: str, value: str) -> np.ndarray:
    return np.array([one == value for one in columns[name]], dtype=bool)


def _where(wrong: np.ndarray, what: str) -> Found:
    if wrong.any():
        yield int(np.argmax(wrong)), what
