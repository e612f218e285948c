"""Entries of the hand-written caches: the ones that articles explain, next to the real ones.

Each has its own file in kvbench/measure/caches/; docs/caches.md walks through them.
"""

from __future__ import annotations

from typing import Any

from kvbench.caches.entry import CacheStrategy, Need, Parameter
from kvbench.caches.held import doubled_room, on_disk, whole_blocks
from kvbench.caches.kept import KeptLayer, Settings
from kvbench.caches.needs import CACHE_OBJECTS, DECODER_ONLY, FEWER_KEYS, NO_STATES, NO_WINDOWS

__all__ = ["BY_HAND"]

_BODIES = "kvbench.measure.caches"
_DECODERS = (CACHE_OBJECTS, DECODER_ONLY, NO_WINDOWS, NO_STATES)


def _by_hand(name: str, body: str, description: str, **more: Any) -> CacheStrategy:
    more = {"needs": _DECODERS} | more
    return CacheStrategy(name=name, description=description, body=f"{_BODIES}.{body}", **more)


_HAVE_16_BITS = Need(
    lambda here, _: here.dtype == "float32",
    "this model already runs in 16 bits; half needs float32 weights.",
    "float32",
)


def _half(layer: KeptLayer, positions: int, _: Settings) -> int:
    return layer.sequences * positions * layer.numbers * 2


def _tiered(layer: KeptLayer, positions: int, settings: Settings) -> int:
    """Return the bytes of int8 blocks, each with a scale per head, and of the exact rest."""
    block = int(settings["block"])
    blocks = max(positions - int(settings["recent"]), 0) // block
    scales = 2 * blocks * layer.heads * layer.width
    recent = (positions - blocks * block) * layer.numbers * layer.width
    return layer.sequences * (blocks * block * layer.numbers + scales + recent)


def _within_budget(seen: int, _window: int | None, settings: Settings) -> int:
    return min(seen, int(settings["budget"]))


def _evicted(layer: KeptLayer, positions: int, _: Settings) -> int:
    """Return the bytes of the kept positions, with a float32 score for each head and position."""
    return layer.sequences * positions * (layer.numbers * layer.width + 4 * layer.heads)


_BUDGET = Parameter("budget", "Positions kept in each layer.", default=256)
_EVICTION: dict[str, Any] = {
    "lossy": True,
    "attends": "elsewhere",
    "needs": (*_DECODERS, FEWER_KEYS),
    "parameters": (_BUDGET,),
    "positions": _within_budget,
    "kept": _evicted,
}


BY_HAND = (
    _by_hand(
        "concat",
        "concat:make",
        "By hand: a list with the tensors of each step, concatenated at every read.",
    ),
    _by_hand(
        "prealloc",
        "prealloc:make",
        "By hand: a buffer per layer that doubles when it is full.",
        room=doubled_room,
    ),
    _by_hand(
        "per-head",
        "per_head:make",
        "By hand: one cache per head in a Python list, stacked at every read.",
    ),
    _by_hand(
        "blocks",
        "blocks:make",
        "By hand: blocks of positions and a block table, gathered at every read.",
        parameters=(Parameter("size", "Positions in a block.", default=16),),
        room=whole_blocks("size"),
    ),
    _by_hand(
        "half",
        "half:make",
        "By hand: keys and values in 16 bits, weights in float32.",
        lossy=True,
        attends="elsewhere",
        needs=(*_DECODERS, _HAVE_16_BITS),
        kept=_half,
        converts=True,
        parameters=(
            Parameter(
                "dtype",
                "16-bit data type of keys and values.",
                default="float16",
                choices=("float16", "bfloat16"),
            ),
        ),
    ),
    _by_hand(
        "tiered",
        "tiered:make",
        "By hand: recent positions exact, older ones in blocks of int8.",
        lossy=True,
        attends="elsewhere",
        kept=_tiered,
        converts=True,
        parameters=(
            Parameter("recent", "Minimum number of positions kept exact.", default=64),
            Parameter("block", "Positions that share a scale.", default=16),
        ),
    ),
    _by_hand(
        "knorm",
        "knorm:make",
        "By hand: a budget of positions; evicts the keys with the largest norms.",
        **_EVICTION,
    ),
    _by_hand(
        "random",
        "at_random:make",
        "By hand: a budget of positions; evicts random ones, as the control for knorm.",
        **_EVICTION,
    ),
    _by_hand(
        "disk",
        "disk:make",
        "By hand: keys and values in memory-mapped files, the latest positions in memory.",
        attends="elsewhere",
        parameters=(Parameter("recent", "Positions kept in memory.", default=64),),
        holds=on_disk,
    ),
)
