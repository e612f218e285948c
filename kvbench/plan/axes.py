"""The axes of a case, each declared once; cases, plans, options and tables are derived from them.

A field of `ModelAxes`, `StrategyAxes` or `CaseAxes` is an axis. Case ids, keys of a plan, options,
columns, groups, pairings, labels and docs are loops over these fields. The class of an axis says
what depends on it: the loaded model, what is verified, or only the case.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kvbench.caches import STRATEGIES
from kvbench.dtypes import DTYPES
from kvbench.workloads import SINGLE, WORKLOADS

__all__ = [
    "AUTO",
    "AXES",
    "KEYS",
    "MODEL_AXES",
    "STRATEGY_AXES",
    "TABLE_ORDER",
    "Axis",
    "CaseAxes",
    "Key",
    "ModelAxes",
    "Reading",
    "StrategyAxes",
    "again",
    "axis",
    "values_of",
]

AUTO = "auto"
"""The name that lets Transformers choose the attention implementation."""

Reading = Literal["words", "models", "caches", "workloads", "texts", "sizes"]
"""How the values of a key are read: words and sizes as lists, models, caches and workloads by their
own rules, texts unchanged.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a plan that sets an axis; the option has the same name.

    Attributes:
        name: by default the name of the axis.
        help: what it means, for `--help` and the docs.
        short: its short option, such as `-b`.
        reading: how its values are read; by default as words, or as sizes for a numeric axis.
        default: its values if a plan does not have it; none if it is an alternative spelling.
        only_spelling: whether it is stored under another key and not kept itself.
    """

    help: str
    name: str = ""
    short: str = ""
    reading: Reading | None = None
    default: tuple[Any, ...] = ()
    only_spelling: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """The declaration of one field of a case.

    Attributes:
        name: of the field and of the column.
        keys: the keys of a plan that set it; none if its values follow from the workload.
        column: the description of its column in the docs of a table.
        kind: the type of its values; for a prompt `str`, its label.
        unit: of its values.
        legacy: the value of runs that predate this axis; `dataclasses.MISSING` if it has always
            existed. At this value it is left out of a case's key, to keep old ids.
        choices: all possible values, in display order; empty if others are possible.
        least: the smallest number.
        single: whether a plan has one value for all cases, or none to let the model decide.
        in_group: whether all cases of a comparison group share its value. Members of a group differ
            in other axes and are measured next to each other. A speedup is always between cases
            that differ only in the cache strategy.
        of_turns: whether only workloads with several turns vary in it; in the others it has its
            legacy value.
        is_size: whether more of it is more of the same work, which needs no less memory.
        seldom: whether it is the same in most runs; it is shown only where it varies.
        head: its column heading.
        label: its display name.
        words: a value in a sentence.
        bare: whether the value alone is clear enough in a label.
        told: values that are named wherever they occur, even if nothing else does.
    """

    name: str
    keys: tuple[Key, ...]
    column: str
    kind: type
    unit: str
    legacy: Any
    choices: tuple[str, ...]
    least: int
    single: bool
    in_group: bool
    of_turns: bool
    is_size: bool
    seldom: bool
    head: str
    label: str
    words: str
    bare: bool
    told: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.kind is int

    @property
    def is_added(self) -> bool:
        """Whether there are runs that predate it."""
        return self.legacy is not dataclasses.MISSING

    def is_told(self, values: Iterable[object]) -> bool:
        """Return whether to name the values of these cases: they differ, or must be named."""
        found = set(values)
        return len(found) > 1 or not found.isdisjoint(self.told)

    def phrase(self, value: object) -> str:
        """Return a value as written in a sentence: `batch 8`, `random weights`."""
        return self.words.format(value)

    def short(self, value: object) -> str:
        """Return a value as written in a label: `batch 8`, `random`."""
        return str(value) if self.bare else self.phrase(value)

    def rank(self, value: Any) -> tuple[Any, ...]:
        """Return the sort key of a value: its place in `choices`, then the number or text."""
        known = self.choices.index(value) if value in self.choices else len(self.choices)
        return (known, value)


def axis(
    help: str,
    *more: Key,
    default: Any = (),
    legacy: Any = dataclasses.MISSING,
    column: str = "",
    short: str = "",
    reading: Reading | None = None,
    planned: bool = True,
    **declared: Any,
) -> Any:
    """Declare a field of a case.

    Args:
        help: what it means, for `--help` and the docs of plans.
        more: additional keys of a plan that set it.
        default: its value, or its values, if a plan does not have it; by default `legacy`.
        legacy: its value in runs that predate it; may differ from the default.
        column: its description in the docs of tables; by default `help`.
        short: its short option.
        reading: how a plan reads it.
        planned: whether a plan has a key for it.
        declared: other fields of `Axis` that differ from their defaults.
    """
    values = default if isinstance(default, tuple) else (default,)
    if not values and legacy is not dataclasses.MISSING:
        values = (legacy,)
    first = Key(help, short=short, reading=reading, default=values)
    keys = (first, *more) if planned else ()
    known = {"keys": keys, "legacy": legacy, "column": column or help, **declared}
    metadata = {"axis": known, "unit": declared.get("unit", ""), "description": known["column"]}
    return dataclasses.field(default=legacy, metadata=metadata)


def again(axes: type, name: str) -> Any:
    """Redeclare a field of a base class for a subclass with a more precise type."""
    (field,) = (field for field in dataclasses.fields(axes) if field.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


@dataclass(frozen=True)
class ModelAxes:
    """The axes that define a loaded model. Cases that share them share one load."""

    __slots__ = ()

    model: str = axis(
        "Built-in architecture (see `kvbench models`), hub id (org/name, or org/name@REVISION for "
        "a branch, tag or commit), local folder, or .gguf file.",
        column="Built-in architecture, hub id or folder, as requested.",
        default="gpt2",
        short="-m",
        reading="models",
        seldom=False,
        bare=True,
    )
    weights: Literal["pretrained", "random"] = axis(
        "pretrained or random; default: random for a built-in architecture, otherwise pretrained.",
        column="Source of the weights: pretrained or random.",
        choices=("pretrained", "random"),
        single=True,
        words="{} weights",
        bare=True,
    )
    device: str = axis(
        "cpu, cuda, cuda:1, ..., or auto: every device kind present.",
        column="cpu, cuda, cuda:1, ...",
        default="auto",
        short="-d",
        seldom=False,
        bare=True,
    )
    dtype: str = axis(
        f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}.",
        column="Data type of weights and cache.",
        default="float32",
        choices=DTYPES,
        seldom=False,
        bare=True,
    )
    attention: str = axis(
        "Attention implementation: sdpa, eager, ..., or auto: the Transformers default.",
        column="Attention implementation, as requested.",
        default=AUTO,
        words="{} attention",
        bare=True,
    )


@dataclass(frozen=True, kw_only=True)
class StrategyAxes(ModelAxes):
    """The axes that define what is verified: a cache strategy on a model."""

    __slots__ = ()

    cache: str = axis(
        f"Cache strategies: {', '.join(STRATEGIES)}; or all: every one that this machine and "
        "model support; transformers: all but those written by hand; by-hand: only those; or your "
        "own: module:factory or ./file.py:factory (see docs/caches.md).",
        Key(
            "Shorthand for cache: true is dynamic, false is off.",
            name="use_cache",
            only_spelling=True,
        ),
        column="Cache strategy: off, dynamic, ...",
        default=("off", "dynamic"),
        short="-c",
        reading="caches",
        in_group=False,
        seldom=False,
        bare=True,
    )


@dataclass(frozen=True, kw_only=True)
class CaseAxes(StrategyAxes):
    """The axes that define a case: everything above, and the work."""

    __slots__ = ()

    batch_size: int = axis(
        "Sequences generated at once. Lists and ranges: 1,2,4 or 1-32*2.",
        column="Sequences generated at once.",
        unit="sequences",
        default=1,
        short="-b",
        is_size=True,
        seldom=False,
        head="batch",
        label="batch",
        words="batch {}",
    )
    # A Prompt in a case, its label in a table.
    prompt: Any = axis(
        "Prompt text; repeat the option for several prompts.",
        Key(
            "File with one prompt per line; a batch takes the lines in turn.",
            name="prompt_file",
            reading="texts",
        ),
        Key(
            "Prompts of this many fixed token ids, instead of a text.",
            name="prompt_tokens",
            short="-p",
            reading="sizes",
        ),
        column="Label of the prompt: text:..., tokens:N or file:NAME#hash; user:N in a generated "
        "conversation.",
        reading="texts",
        is_size=True,
        bare=True,
    )
    max_new_tokens: int = axis(
        "New tokens to generate. Lists and ranges: 10,110,210 or 10-910+100.",
        column="New tokens per sequence.",
        unit="tokens",
        default=(10, 50, 100),
        short="-n",
        is_size=True,
        seldom=False,
        head="tokens",
        label="new tokens",
        words="{} new tokens",
    )
    # Next to each other in a group: what the loop takes off a step is small, and drift is not.
    driver: Literal["generate", "loop"] = axis(
        "What calls the model for each token: generate is Transformers' own code, loop is "
        "kvbench's bare loop.",
        column="What called the model: generate (Transformers' own) or loop (kvbench's).",
        legacy="generate",
        choices=("generate", "loop"),
        in_group=False,
    )
    method: Literal["each", "trace", "sampled"] = axis(
        "How generations become rows. each: every length is generated separately. trace: "
        "shorter lengths are read from the timestamps of the longest generation. sampled: times "
        "are estimated from single steps at chosen positions, for long generations.",
        column="each: every length has its own generation. trace: read from the timestamps of a "
        "longer generation. sampled: an estimate from single steps at chosen positions.",
        legacy="each",
        choices=("each", "trace", "sampled"),
        told=("sampled",),
    )
    workload: str = axis(
        f"What is generated: {', '.join(WORKLOADS)}, with parameters as in chat:turns=4:reply=64 "
        "(see docs/workloads.md).",
        column="What was generated: single (one prompt), or a conversation such as chat:turns=4.",
        legacy=SINGLE,
        reading="workloads",
    )
    reuse: Literal["none", "turn", "conversation"] = axis(
        "How long the cache of a conversation lives. none: no cache. turn: until the reply is "
        "complete; the history is recomputed for the next turn. conversation: across all turns.",
        column="How long the cache of a conversation lived: none (no cache), turn, or "
        "conversation. turn for a single prompt.",
        legacy="turn",
        default=("none", "turn", "conversation"),
        choices=("none", "turn", "conversation"),
        in_group=False,
        of_turns=True,
    )
    turn: int = axis(
        "The turn of a conversation, from 1; always 1 for a single prompt.",
        legacy=1,
        planned=False,
        in_group=False,
        of_turns=True,
        is_size=True,
        words="turn {}",
    )


def values_of(record: object, names: Iterable[str]) -> tuple[Any, ...]:
    """Return the values of these fields in a case or a record."""
    return tuple(getattr(record, name) for name in names)


def _declared(field: dataclasses.Field[Any], hint: Any) -> Axis:
    """Return an axis with its default declarations filled in."""
    name, label = field.name, field.name.replace("_", " ")
    known = {
        "kind": _kind(hint),
        "unit": "",
        "choices": (),
        "least": 1,
        "single": False,
        "in_group": True,
        "of_turns": False,
        "is_size": False,
        "seldom": True,
        "head": label,
        "label": label,
        "words": f"{label} {{}}",
        "bare": False,
        "told": (),
    } | field.metadata["axis"]
    usual: Reading = "sizes" if known["kind"] is int else "words"
    known["keys"] = tuple(
        dataclasses.replace(key, name=key.name or name, reading=key.reading or usual)
        for key in known["keys"]
    )
    return Axis(name=name, **known)


def _kind(hint: Any) -> type:
    if hint is int or hint is str:
        return typing.cast(type, hint)
    if hint is Any or typing.get_origin(hint) is Literal:
        return str
    raise TypeError(f"an axis has words or numbers, not {hint}")


def _names(axes: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(axes))


_HINTS = typing.get_type_hints(CaseAxes)

AXES: Mapping[str, Axis] = {
    field.name: _declared(field, _HINTS[field.name]) for field in dataclasses.fields(CaseAxes)
}
"""All axes by name, in the order of a case's key."""

MODEL_AXES = _names(ModelAxes)
"""The names of the axes that define a model."""

STRATEGY_AXES = _names(StrategyAxes)
"""The names of the axes that define what is verified."""

KEYS: Mapping[str, Key] = {key.name: key for axis_ in AXES.values() for key in axis_.keys}
"""The keys of a plan that set an axis."""

TABLE_ORDER: tuple[Axis, ...] = tuple(
    sorted(AXES.values(), key=lambda axis_: axis_.is_size and axis_.is_number)
)
"""All axes in the order of tables and labels: the kind of work first, its numbers last."""
