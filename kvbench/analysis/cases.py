"""Cases for readers: their order in tables, and their names in sentences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from kvbench.caches import STRATEGIES
from kvbench.text import shorten

__all__ = ["SELDOM", "ReadingOrder", "Record", "describe", "named", "varied"]


class Record(Protocol):
    """What samples and summaries have in common: the fields of the case."""

    # Properties, since those of a frozen class can only be read.
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def weights(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def attention(self) -> str: ...  # noqa: D102
    @property
    def cache(self) -> str: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def prompt(self) -> str: ...  # noqa: D102
    @property
    def prompt_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def max_new_tokens(self) -> int: ...  # noqa: D102


_SELDOM: dict[str, Callable[[Record], str]] = {
    "weights": lambda record: f"{record.weights} weights",
    "attention": lambda record: f"{record.attention} attention",
    "prompt": lambda record: f"prompt {shorten(record.prompt)}",
}
SELDOM = tuple(_SELDOM)
"""What mostly is the same in all cases, so that it is named only where it is not."""


class ReadingOrder:
    """Cases were run in a shuffled order; people read them in the plan's, and by size.

    Models are loaded in the plan's order, so that what makes a model is in the order it was seen.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        seen = list(records)
        self._models = {key: n for n, key in enumerate(dict.fromkeys(map(_model, seen)))}
        caches = dict.fromkeys([*STRATEGIES, *(record.cache for record in seen)])
        self._caches = {name: number for number, name in enumerate(caches)}
        # A case that was never begun does not know how long its prompt is; others may.
        known = ((_prompt(record), record.prompt_tokens) for record in seen)
        self._lengths = {prompt: tokens for prompt, tokens in known if tokens is not None}

    def __call__(self, record: Record) -> tuple[object, ...]:
        """The key to sort by."""
        length = self._lengths.get(_prompt(record), 0)
        size = (record.batch_size, length, record.prompt, record.max_new_tokens)
        return (self._models[_model(record)], *size, self._caches[record.cache])


def varied(records: Sequence[Record]) -> frozenset[str]:
    """Which of the fields that `describe` mostly leaves out differ between these cases."""
    return frozenset(n for n in SELDOM if len({getattr(r, n) for r in records}) > 1)


def describe(record: Record, differing: Iterable[str] = (), *, length: bool = True) -> str:
    """A case in words, such as `gpt2 on cpu, float32, batch 8, cache off, 100 new tokens`.

    Args:
        record: a sample or a summary of the case.
        differing: what `varied` says of the cases that it stands among.
        length: whether the number of new tokens is named.
    """
    differing = set(differing)
    parts = [f"{record.model} on {record.device}", record.dtype]
    parts += named(record, differing - {"prompt"})
    if record.batch_size > 1:
        parts.append(f"batch {record.batch_size}")
    parts += named(record, differing & {"prompt"})
    parts.append(f"cache {record.cache}")
    if length:
        parts.append(f"{record.max_new_tokens} new tokens")
    return ", ".join(parts)


def named(record: Record, differing: Collection[str]) -> list[str]:
    """A case's values of those fields of `SELDOM` that differ, each in words."""
    return [text(record) for field, text in _SELDOM.items() if field in differing]


def _prompt(record: Record) -> tuple[str, str]:
    return (record.model, record.prompt)


def _model(record: Record) -> tuple[str, ...]:
    return (record.model, record.weights, record.device, record.dtype, record.attention)
