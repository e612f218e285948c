"""Find which layers see all positions, which have a window, and which keep a state."""

from __future__ import annotations

from collections.abc import Callable

from kvbench.theory.fields import Fields

__all__ = [
    "CHUNKED",
    "FULL",
    "LINEAR",
    "SLIDING",
    "Pattern",
    "alternating",
    "by_default",
    "every",
    "from_layer",
    "if_used",
    "layer_kinds",
    "rope_layers",
    "window_of",
]

Pattern = Callable[[Fields, int], list[str]]
"""The kinds of this many layers, if the configuration does not list them."""

FULL, SLIDING, CHUNKED, LINEAR = (
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "linear_attention",
)

_WINDOWS = {SLIDING: "sliding_window", CHUNKED: "attention_chunk_size"}


def layer_kinds(fields: Fields, pattern: Pattern, known: tuple[str, ...]) -> list[str]:
    """Return the kind of each layer by Transformers' names, from `layer_types` or the pattern.

    Raises:
        UserError: a kind is not one of `known`.
    """
    count = fields.integer("num_hidden_layers")
    kinds = fields.names("layer_types", count) or pattern(fields, count)
    for kind in kinds:
        if kind not in known:
            fields.refuse("layer_types", f"'{kind}' in one layer, which has no cost model")
    return kinds


def window_of(fields: Fields, kind: str) -> int | None:
    """Return the positions that a query sees in this kind of layer, itself included; None for all.

    Raises:
        UserError: there is no size, or it is 1, which Transformers' cache miscounts.
    """
    if kind == SLIDING and fields.get("use_sliding_window") is False:
        fields.refuse("use_sliding_window", "false, but layer_types has sliding layers")
    return fields.integer(_WINDOWS[kind], least=2) if kind in _WINDOWS else None


def by_default(fields: Fields, count: int) -> list[str]:
    """Make all layers alike: sliding if there is a window, chunked if there is a chunk size.

    Source: `get_layer_types_and_kwargs` in Transformers' cache_utils.py.
    """
    if fields.get("sliding_window") is not None:
        return [SLIDING] * count
    chunked = fields.get("attention_chunk_size") is not None
    return [CHUNKED if chunked else FULL] * count


def if_used(fields: Fields, count: int) -> list[str]:
    """Make all layers alike: sliding if `use_sliding_window` is true and there is a window."""
    return by_default(fields, count) if fields.flag("use_sliding_window") else [FULL] * count


def every(interval: str | None, default: int, others: str) -> Pattern:
    """Return a pattern of `others` with a full layer at an interval, which a field may set."""

    def pattern(fields: Fields, count: int) -> list[str]:
        size = (fields.optional(interval) if interval else None) or default
        return [FULL if (index + 1) % size == 0 else others for index in range(count)]

    return pattern


def alternating(fields: Fields, count: int) -> list[str]:
    """Alternate sliding and full layers."""
    return [FULL if index % 2 else SLIDING for index in range(count)]


def from_layer(fields: Fields, count: int) -> list[str]:
    """Use full layers up to `max_window_layers`, then sliding ones if `use_sliding_window`."""
    windowed = fields.flag("use_sliding_window") and fields.get("sliding_window") is not None
    first = fields.integer("max_window_layers", least=0) if windowed else count
    return [SLIDING if index >= first else FULL for index in range(count)]


def rope_layers(fields: Fields, count: int) -> list[str]:
    """Use chunked layers, and full ones without rotation where `no_rope_layers` has a 0."""
    interval = fields.integer("no_rope_layer_interval")
    listed = fields.integers("no_rope_layers") or [
        int((index + 1) % interval != 0) for index in range(count)
    ]
    if len(listed) < count:
        fields.refuse("no_rope_layers", f"a list of {len(listed)} for {count} layers")
    return [CHUNKED if rope else FULL for rope in listed[:count]]
