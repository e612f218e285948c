"""Where the bytes of a cache are: in device memory, in host memory, or in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvbench.caches.entry import CacheStrategy
    from kvbench.caches.kept import KeptLayer, Settings

    Room = Callable[[KeptLayer, int, Settings], int]

__all__ = [
    "Held",
    "doubled_room",
    "in_pages",
    "joined_room",
    "no_spare_room",
    "on_device",
    "on_disk",
    "on_host",
    "whole_blocks",
    "window_room",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The bytes of a cache at its end, for all sequences.

    Attributes:
        attended: what a step attends to, in the form in which it is kept.
        device: what is allocated in the memory of the device at most, spare room included.
        host: what is in host memory at the end. If there is anything, all that is attended to
            crosses the bus at each step.
        disk: the files, spare room included.
    """

    attended: int
    device: int
    host: int = 0
    disk: int = 0


def no_spare_room(_layer: KeptLayer, positions: int, _: Settings) -> int:
    """Return the kept positions: nothing more is allocated."""
    return positions


def whole_blocks(parameter: str) -> Room:
    """Return the rule for positions in blocks, whose size is a parameter of the strategy."""

    def room(_layer: KeptLayer, positions: int, settings: Settings) -> int:
        size = int(settings[parameter])
        return -(-positions // size) * size

    return room


def joined_room(layer: KeptLayer, positions: int, _: Settings) -> int:
    """Return the positions of the tensor whose last ones a window keeps.

    A step joins the window with its own position, and keeps a view of all but the first. Source:
    `DynamicSlidingWindowLayer.update` in Transformers' cache_utils.py.
    """
    return layer.seen if layer.seen == layer.first else min(layer.seen, positions + 1)


def window_room(layer: KeptLayer, positions: int, settings: Settings) -> int:
    """Return the same for layers in which the model has a window; others have no spare room."""
    return positions if layer.window is None else joined_room(layer, positions, settings)


def doubled_room(layer: KeptLayer, positions: int, _: Settings) -> int:
    """Return the room of a buffer that just holds the prompt and then doubles when it is full."""
    room = layer.first
    while room < positions:
        room *= 2
    return room


def on_device(entry: CacheStrategy, layers: Sequence[KeptLayer]) -> Held:
    """Keep everything in the device's memory."""
    return Held(
        attended=sum(map(entry.bytes_kept, layers)), device=sum(map(entry.bytes_allocated, layers))
    )


def on_host(entry: CacheStrategy, layers: Sequence[KeptLayer]) -> Held:
    """Keep the layers in host memory, except the current one and the next.

    At the end of a step there is only a next one: the first layer. Source: `Cache.prefetch` and
    `Cache.offload` in Transformers' cache_utils.py.
    """
    sizes = list(map(entry.bytes_allocated, layers))
    attended = sum(map(entry.bytes_kept, layers))
    return Held(attended=attended, device=sum(sorted(sizes)[-2:]), host=sum(sizes[1:]))


def in_pages(entry: CacheStrategy, layers: Sequence[KeptLayer]) -> Held:
    """Keep everything in a pool of whole pages, with two more that only padding is written to.

    Source: `PagedAttentionCache` in Transformers' continuous_batching/cache.py.
    """
    page = int(entry.settings["page"])
    unused = sum(entry.kept(replace(one, sequences=1), 2 * page, entry.settings) for one in layers)
    held = on_device(entry, layers)
    return replace(held, device=held.device + unused)


def on_disk(entry: CacheStrategy, layers: Sequence[KeptLayer]) -> Held:
    """Keep the latest `recent` positions of each layer in memory, and the others in files."""
    attended = sum(map(entry.bytes_kept, layers))
    near = sum(
        entry.kept(layer, min(kept, int(entry.settings["recent"])), entry.settings)
        for layer in layers
        for kept in (entry.positions_kept(layer.seen, layer.window),)
    )
    return Held(attended=attended, device=near, disk=attended - near)
