"""Format estimates as text: facts with their formulas, lower bounds, and the cache strategies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kvbench.media import for_markdown
from kvbench.report.markdown import markdown_table
from kvbench.report.table import Table
from kvbench.report.units import mib, seconds, significant, times
from kvbench.theory.advice import UNBOUNDED
from kvbench.theory.estimate import DeviceFloor, Estimate
from kvbench.theory.strategies import StrategyEstimate

__all__ = [
    "estimate_data",
    "estimate_facts",
    "estimate_json",
    "estimate_markdown",
    "estimate_notes",
    "floor_table",
    "strategy_records",
    "strategy_table",
]

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def estimate_facts(found: Estimate) -> list[tuple[str, str]]:
    """Return the facts of an estimate by name; the formula follows the cache."""
    work = found.work
    facts = [
        ("model", _model(found)),
        (
            "work",
            f"batch {work.batch}, {work.prompt_tokens} prompt and {work.new_tokens} new tokens "
            f"each, {work.dtype}: {found.positions} positions in the cache at the end (the "
            "last token is not fed back)",
        ),
        ("weights", "-" if found.weights_bytes is None else _bytes(found.weights_bytes)),
        ("cache per token", f"{found.cache_bytes_per_token:,} bytes per sequence"),
        ("cache at the end", _bytes(found.cache_bytes) + _share(found)),
        *(("", line) for line in found.formula),
        *_flops(found),
    ]
    if found.memory_bytes is not None:
        facts.append((f"fits in {_gib(found.memory_bytes)}", _fits(found)))
    return facts


def floor_table(found: Estimate) -> Table | None:
    """Return the lower bounds with and without the cache on each device; None without rates."""
    if not found.floors:
        return None
    return Table(
        heads=tuple(column for column, _, _ in _COLUMNS),
        rows=tuple(tuple(cell(one) for _, cell, _ in _COLUMNS) for one in found.floors),
        numeric=tuple(numeric for _, _, numeric in _COLUMNS),
        caption="Lower bound: no run can be faster. Expected speedup: off / cached. With probed "
        "rates it includes the overhead of each layer; with published rates it does not, and on a "
        "GPU that is most of the time of a small model.",
    )


def strategy_table(found: Estimate) -> Table | None:
    """Return one row per cache strategy that can run with this model; None without any."""
    shown = [one for one in found.strategies if one.reason is None]
    if not shown:
        return None
    columns = [column for column in _STRATEGY_COLUMNS if column[3](shown)]
    devices = [bound.hardware for bound in shown[0].bounds]
    return Table(
        heads=(*(head for head, _, _, _ in columns), *devices),
        rows=tuple(
            (
                *(cell(one) for _, cell, _, _ in columns),
                *("-" if bound.seconds is None else seconds(bound.seconds) for bound in one.bounds),
            )
            for one in shown
        ),
        numeric=(*(numeric for _, _, numeric, _ in columns), *(True for _ in devices)),
        caption="Sizes in MiB at the end of the generation. attends: what a step reads from the "
        "cache; needs: device memory for the whole generation, on top of the weights."
        + " fits: the largest batch at this length, or positions at this batch, with a tenth of "
        "the memory left unused."
        * (found.memory_bytes is not None)
        + " Under each device: the lower bound of the time." * bool(devices),
    )


def estimate_notes(found: Estimate) -> list[str]:
    """Return the notes of an estimate, and why strategies are left out or have no lower bound."""
    reasons = [one.reason for one in found.strategies]
    bounds = [bound.reason for one in found.strategies for bound in one.bounds]
    return list(dict.fromkeys(note for note in (*found.notes, *reasons, *bounds) if note))


def estimate_markdown(found: Estimate) -> str:
    """Return the same in Markdown."""
    facts = "\n".join(
        f"- {for_markdown(f'{name}: {text}' if name else text)}"
        for name, text in estimate_facts(found)
    )
    parts = [facts]
    for table in (floor_table(found), strategy_table(found)):
        if table is not None:
            parts += [markdown_table(table), for_markdown(table.caption)]
    parts += [for_markdown(note) for note in estimate_notes(found)]
    return "\n\n".join(parts) + "\n"


def estimate_data(found: Estimate) -> dict[str, Any]:
    """Return all fields of an estimate; an unlimited size is null."""
    value = dataclasses.asdict(found)
    for one in (value, *value["strategies"]):
        for name in ("largest_batch", "longest_context"):
            if one[name] == UNBOUNDED:
                one[name] = None
    return value


def estimate_json(found: Estimate) -> str:
    """Return the same as JSON."""
    return json.dumps(estimate_data(found), indent=2, ensure_ascii=False) + "\n"


def strategy_records(found: Estimate) -> Iterator[dict[str, Any]]:
    """Return one record per strategy and device; one per strategy without devices."""
    for one in estimate_data(found)["strategies"]:
        bounds = one.pop("bounds")
        for bound in bounds or [{}]:
            yield one | {
                "hardware": bound.get("hardware"),
                "lower_bound_s": bound.get("seconds"),
                "reason": one["reason"] or bound.get("reason"),
            }


def _model(found: Estimate) -> str:
    counted = "" if found.parameters is None else f", {found.parameters:,} parameters"
    return f"{found.model} ({found.model_type}){counted}"


def _bytes(size: int) -> str:
    return f"{size:,} bytes ({_gib(size)})"


def _gib(size: int) -> str:
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{significant(size / unit)} {name}"


def _share(found: Estimate) -> str:
    if not found.weights_bytes:
        return ""
    return f", {significant(100 * found.cache_bytes / found.weights_bytes)} % of the weights"


def _flops(found: Estimate) -> list[tuple[str, str]]:
    if found.flops_off is None or found.flops_on is None or found.kv_projection_flops is None:
        return []
    saved = found.flops_off - found.flops_on
    return [
        ("work without", f"{_flop(found.flops_off)}"),
        (
            "work with",
            f"{_flop(found.flops_on)}: {_flop(saved)} saved, "
            f"{significant(found.flops_off / found.flops_on)} times less",
        ),
        (
            "keys and values",
            f"{found.kv_projection_flops:,} FLOPs for all {found.work.batch} x {found.positions} "
            "positions once; without a cache, recomputed for all positions so far at every step",
        ),
    ]


def _flop(count: int) -> str:
    for size, prefix in _PREFIXES:
        if count >= size:
            return f"{significant(count / size)} {prefix}FLOP"
    return f"{count} FLOP"


def _fits(found: Estimate) -> str:
    batch, context = found.largest_batch, found.longest_context
    if batch is None or context is None:
        return "-"
    all_of_them = " (all the model supports)" if context == found.max_positions else ""
    return (
        f"next to the weights: batch {_size(batch)} at this length, or {_size(context)} "
        f"positions{all_of_them} at batch {found.work.batch}; a tenth of the memory is left for "
        "libraries"
    )


def _size(number: int) -> str:
    return "unlimited" if number == UNBOUNDED else f"{number:,}"


def _limits(one: DeviceFloor) -> str:
    return one.off_limit if one.off_limit == one.on_limit else f"{one.off_limit}, {one.on_limit}"


_COLUMNS: tuple[tuple[str, Callable[[DeviceFloor], str], bool], ...] = (
    ("device", lambda one: one.hardware, False),
    ("rates", lambda one: one.source, False),
    ("GB/s", lambda one: significant(one.read_bytes_per_s / 1e9), True),
    ("TFLOP/s", lambda one: significant(one.flops_per_s / 1e12), True),
    ("off lower bound", lambda one: seconds(one.off_s), True),
    ("cached lower bound", lambda one: seconds(one.on_s), True),
    ("expected", lambda one: times(one.speedup), True),
    ("pays from", lambda one: "-" if one.pays_from is None else str(one.pays_from), True),
    ("limited by (off, cached)", _limits, False),
)


def _known_size(size: int | None) -> str:
    return "-" if size is None else _size(size)


def _known_mib(size: int | None) -> str:
    return "-" if size is None else mib(size)


def _any(name: str) -> Callable[[Sequence[StrategyEstimate]], bool]:
    return lambda shown: any(getattr(one, name) for one in shown)


_STRATEGY_COLUMNS: tuple[
    tuple[
        str,
        Callable[[StrategyEstimate], str],
        bool,
        Callable[[Sequence[StrategyEstimate]], bool],
    ],
    ...,
] = (
    ("cache", lambda one: one.cache, False, lambda _: True),
    ("tokens", lambda one: "lossy" if one.lossy else "exact", False, lambda _: True),
    ("attends", lambda one: _known_mib(one.attended_bytes), True, lambda _: True),
    ("allocated", lambda one: _known_mib(one.device_bytes), True, lambda _: True),
    ("on host", lambda one: _known_mib(one.host_bytes), True, _any("host_bytes")),
    ("on disk", lambda one: _known_mib(one.disk_bytes), True, _any("disk_bytes")),
    ("needs", lambda one: _known_mib(one.needed_bytes), True, lambda _: True),
    ("fits batch", lambda one: _known_size(one.largest_batch), True, _any("largest_batch")),
    ("fits context", lambda one: _known_size(one.longest_context), True, _any("longest_context")),
)
