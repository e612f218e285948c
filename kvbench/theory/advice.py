"""What fits in memory: the largest batch, the longest context, and ways out when a case did not.

Running out of memory is a fact about one case on one machine. The advice follows from the
configuration and the available room, and leaves a tenth of the room for what theory does not count.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kvbench.caches import strategy
from kvbench.dtypes import dtype_bytes
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import held_bytes
from kvbench.theory.layers import Attention, Experts, Kept, Layer
from kvbench.theory.work import Work

__all__ = [
    "UNBOUNDED",
    "Fit",
    "largest_batch",
    "longest_context",
    "needed_bytes",
    "what_fits",
]

UNBOUNDED = 1 << 40
"""A batch or a context of this size means no limit."""

_USABLE = 0.9
"""The fraction of the room to plan with: allocators round up, and libraries need some."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One way to make a case fit.

    Attributes:
        cache: the strategy: the same one with a smaller batch, or another one at the same batch.
        batch: sequences generated at once.
        needs_bytes: bytes needed in addition to the weights.
        room_bytes: bytes that were available.
    """

    cache: str
    batch: int
    needs_bytes: int
    room_bytes: int


def what_fits(
    architecture: Architecture,
    work: Work,
    cache: str,
    room_bytes: int,
    *,
    others: Iterable[str] = (),
) -> tuple[Fit, ...]:
    """Return what would fit in place of a case that did not; empty if nothing would.

    The largest batch with the same strategy comes first, then the other strategies at the full
    batch, the one that needs the least first.

    Args:
        architecture: the model.
        work: the intended generation.
        cache: the intended strategy.
        room_bytes: free memory after the weights were loaded.
        others: alternative strategies; those without a cache are left out, since they keep nothing
            and compute everything.

    Raises:
        UserError: a strategy or the dtype is unknown, or a size is less than 1.
    """

    def fit(name: str, batch: int) -> Fit | None:
        needs = needed_bytes(architecture, work.with_batch(batch), name)
        if needs > room_bytes * _USABLE:
            return None
        return Fit(cache=name, batch=batch, needs_bytes=needs, room_bytes=room_bytes)

    if fit(cache, work.batch):
        # It should have fit: theory does not know what was missing.
        return ()
    most = largest_batch(architecture, work, cache, room_bytes)
    smaller = [found] if most and (found := fit(cache, most)) else []
    names = [name for name in dict.fromkeys(others) if name != cache and strategy(name).use_cache]
    swapped = [found for name in names if (found := fit(name, work.batch))]
    return (*smaller, *sorted(swapped, key=lambda one: one.needs_bytes))


def largest_batch(architecture: Architecture, work: Work, cache: str, room_bytes: int) -> int:
    """Return the largest batch of this length that fits in a room next to the weights.

    0 if not even one sequence fits; `UNBOUNDED` if there is no limit.

    Raises:
        UserError: as for `needed_bytes`.
    """
    return _largest(
        lambda batch: needed_bytes(architecture, work.with_batch(batch), cache), room_bytes
    )


def longest_context(architecture: Architecture, work: Work, cache: str, room_bytes: int) -> int:
    """Return the most positions at the end that fit in a room next to the weights, at this batch.

    0 if not even one fits; `UNBOUNDED` if there is no limit.

    Raises:
        UserError: as for `needed_bytes`.
    """
    encoder = bool(architecture.encoder)
    return _largest(
        lambda size: needed_bytes(architecture, work.with_context(size, encoder=encoder), cache),
        room_bytes,
    )


def _largest(size: Callable[[int], int], room_bytes: int) -> int:
    room = int(room_bytes * _USABLE)
    if room < size(1):
        return 0
    if size(UNBOUNDED) <= room:
        return UNBOUNDED
    # Sizes grow with the number: the largest that fits is below the first that does not.
    return bisect.bisect_right(range(1, UNBOUNDED), room, key=size)


def needed_bytes(architecture: Architecture, work: Work, cache: str) -> int:
    """Return the bytes that a generation needs in addition to the weights, as far as theory knows.

    - What the cache holds on the device at its end; twice if it grows. Each step allocates a little
      more than the one before has freed, so an allocator may hold as much again in blocks that are
      too small.
    - One layer of it in the model's dtype, since layers are copied one at a time; two if the cache
      is not attended to as it is kept, three if it is converted, and then joined with the new one.
    - What the prefill computes at once in a layer: two rows of the residual stream and three of the
      feed-forward layer for each position.
    - The logits of one position for each sequence, and their copy in float32.

    Raises:
        UserError: the strategy or the dtype is unknown, or a size is less than 1.
    """
    entry = strategy(cache)
    attends = entry.attends
    held = 1 if attends in ("nothing", "buffer") else 2
    copies = 3 if entry.converts else 2 if attends == "elsewhere" else 1
    kept = held * held_bytes(architecture, cache, *work.sizes, work.dtype).device
    width = dtype_bytes(work.dtype)
    seen = work.prompt_tokens + work.new_tokens - 1
    mixers = [layer.mixer for layer in architecture.layers]
    grown = [mixer.kept for mixer in mixers if isinstance(mixer, Attention | Kept)]
    layer = copies * work.batch * seen * max(grown, default=0) * width
    logits = work.batch * architecture.vocabulary * (width + dtype_bytes("float32"))
    row = 2 * architecture.hidden_size + 3 * max(map(_feed_forward, architecture.layers), default=0)
    return kept + layer + logits + work.batch * work.prompt_tokens * row * width


def _feed_forward(layer: Layer) -> int:
    """Return the width of what follows the attention of a layer, for one position."""
    if isinstance(layer.mlp, Experts):
        return layer.mlp.per_token * layer.mlp.expert.width
    return layer.mlp.width if layer.mlp else 0
