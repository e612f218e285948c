"""What a layer of attention keeps after a generation: positions, and bytes. Plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from kvbench.caches.parameters import Settings

__all__ = [
    "KeptLayer",
    "Settings",
    "all_positions",
    "buffer_positions",
    "kept_plainly",
    "kept_positions",
    "kept_quantized",
    "last_positions",
    "window_positions",
]


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """One attention layer after a generation, as far as a cache is concerned.

    Attributes:
        seen: positions that were fed. The last new token is never fed.
        numbers: numbers in the keys and values of one position, over all heads, in one sequence.
        window: positions that a query sees, itself included; null if it sees all.
        width: bytes of a number in the model's dtype.
        heads: heads of keys and values.
        sequences: sequences in the batch.
        first: how many of the `seen` positions were fed at once, in the first pass.
    """

    seen: int
    numbers: int
    window: int | None
    width: int
    heads: int = 1
    sequences: int = 1
    first: int = 1


def kept_positions(seen: int, window: int | None) -> int:
    """Return how many positions a layer keeps after `seen` of them were fed.

    A window keeps one position less than it shows, since the next query adds its own; this holds
    right after a long prompt too. Source: `DynamicSlidingWindowLayer.update` in Transformers'
    cache_utils.py.
    """
    return seen if window is None else min(seen, window - 1)


def window_positions(seen: int, window: int | None, _: Settings) -> int:
    """Return how many of the seen positions are kept, within the model's window."""
    return kept_positions(seen, window)


def all_positions(seen: int, _window: int | None, _: Settings) -> int:
    """Return all seen positions, whatever the model's window."""
    return seen


def kept_plainly(layer: KeptLayer, positions: int, _: Settings) -> int:
    """Return the bytes of keys and values of this many positions, in the model's dtype."""
    return layer.sequences * positions * layer.numbers * layer.width


def last_positions(seen: int, window: int | None, settings: Settings) -> int:
    """Return how many of the first and last positions are kept.

    A step adds its own position, which is one of the last. A window of the model still applies.
    """
    if window is not None:
        return window_positions(seen, window, settings)
    return min(seen, int(settings.get("sink", 0)) + int(settings["size"]) - 1)


def buffer_positions(seen: int, window: int | None, _: Settings) -> int:
    """Return the positions of a buffer that holds everything fed, or a whole window."""
    return seen if window is None else min(seen, window)


def kept_quantized(layer: KeptLayer, positions: int, settings: Settings) -> int:
    """Return the bytes of packed numbers, of their scales, and of what is not packed yet.

    fp8 keeps one byte per number; its single scale is not counted. The others pack what the first
    pass fed, and pack everything again after every `residual` new positions. Each group has a scale
    and an offset in the model's dtype. Source: `QuantizedLayer.update` in Transformers'
    cache_utils.py.
    """
    numbers = layer.sequences * layer.numbers
    if settings["backend"] == "fp8":
        return positions * numbers
    group, bits = int(settings["group"]), int(settings["nbits"])
    fresh = (positions - layer.first) % int(settings["residual"])
    # Keys, and as many values.
    groups = (positions - fresh) * numbers // 2 // group
    packed = groups * group * bits // 8
    if settings["backend"] == "quanto":
        # The backend stacks groups and pads the last row.
        packed = -(-groups * bits // 8) * group
    return 2 * (packed + 2 * groups * layer.width) + fresh * numbers * layer.width
