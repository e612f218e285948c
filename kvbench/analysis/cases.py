"""How cases are ordered in tables and named in sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from kvbench.caches import STRATEGIES
from kvbench.plan.axes import AXES, MODEL_AXES, STRATEGY_AXES, values_of
from kvbench.records.case import CaseRecord
from kvbench.text import shorten

__all__ = ["SELDOM", "ReadingOrder", "describe", "named", "varied"]


SELDOM = tuple(axis for axis in AXES.values() if axis.seldom)
"""Axes that usually have one value in all cases; they are named only where the value differs."""

_OTHERS = tuple(
    axis
    for axis in AXES.values()
    if not axis.is_size and not axis.of_turns and axis.name not in STRATEGY_AXES
)
"""Axes that identify neither the strategy or the model, nor the amount of work."""


class ReadingOrder:
    """The order of cases in tables: the plan's order, then by size. Cases run in a shuffled order.

    Models are loaded in the plan's order, so their axes are sorted in the order first seen.
    """

    def __init__(self, records: Iterable[CaseRecord]) -> None:
        seen = list(records)
        self._models = {key: n for n, key in enumerate(dict.fromkeys(map(_model, seen)))}
        caches = dict.fromkeys([*STRATEGIES, *(record.cache for record in seen)])
        self._caches = {name: number for number, name in enumerate(caches)}
        # A case that never started has no known prompt length; other cases of the prompt may have
        # one.
        known = ((_prompt(record), record.prompt_tokens) for record in seen)
        self._lengths = {prompt: tokens for prompt, tokens in known if tokens is not None}

    def __call__(self, record: CaseRecord) -> tuple[object, ...]:
        """Return the sort key of a case."""
        length = self._lengths.get(_prompt(record), 0)
        size = (record.batch_size, length, record.prompt, record.max_new_tokens)
        others = [axis.rank(getattr(record, axis.name)) for axis in _OTHERS]
        # How a cache is reused belongs to the strategy, and the strategies of a turn together.
        kind = self._caches[record.cache], AXES["reuse"].rank(record.reuse)
        return (self._models[_model(record)], *others, *size, record.turn, *kind)


def varied(records: Sequence[CaseRecord]) -> frozenset[str]:
    """Return the fields that `describe` usually omits but must name for these cases."""
    return frozenset(a.name for a in SELDOM if a.is_told(getattr(r, a.name) for r in records))


def describe(
    record: CaseRecord, differing: Iterable[str] = (), *, length: bool = True, whole: bool = False
) -> str:
    """Return a case in words, such as `gpt2 on cpu, float32, batch 8, cache off, 100 new tokens`.

    Args:
        record: a sample or a summary of the case.
        differing: the result of `varied` for the cases shown with it.
        length: whether to name the number of new tokens.
        whole: whether a long value, such as a prompt, keeps its middle.
    """
    differing = set(differing)
    parts = [f"{record.model} on {record.device}", record.dtype]
    parts += named(record, differing & {*MODEL_AXES}, whole=whole)
    if record.batch_size > 1:
        parts.append(f"batch {record.batch_size}")
    parts += named(record, differing - {*MODEL_AXES}, whole=whole)
    parts.append(f"cache {record.cache}")
    if length:
        parts.append(f"{record.max_new_tokens} new tokens")
    return ", ".join(parts)


def named(record: CaseRecord, differing: Collection[str], *, whole: bool = False) -> list[str]:
    """Return the values of those `SELDOM` fields that are to be named, each in words."""
    values = ((axis, str(getattr(record, axis.name))) for axis in SELDOM if axis.name in differing)
    return [axis.phrase(value if whole else shorten(value)) for axis, value in values]


def _prompt(record: CaseRecord) -> tuple[str, str]:
    return (record.model, record.prompt)


def _model(record: CaseRecord) -> tuple[str, ...]:
    return values_of(record, MODEL_AXES)
