"""Tell which position each key in a cache belongs to, by comparing it with the keys that were made.

A shape says how many keys a step reads, not which: a window keeps the last ones, an evicting cache
those that it prefers, a preallocated buffer has slots without any.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kvbench.measure.observers import Seen

__all__ = ["first_numbers", "key_positions"]

Positions = tuple[int | None, ...]

_NEAR = 0.5
"""How far a key may be from the one that was made, relative to its length.

A cache of two bits per number changes a key by about a third. Keys of different positions differ by
more than their length.
"""
_NUMBERS = 8
_EXACT = "donot_use_mm_for_euclid_dist"


def first_numbers(keys: torch.Tensor | None) -> tuple[tuple[float, ...], ...]:
    """Return the first numbers of each key in the first head, rounded."""
    if keys is None:
        return ()
    rows = keys[0, :, :_NUMBERS].tolist()
    return tuple(tuple(float(f"{number:.3g}") for number in row) for row in rows)


def key_positions(steps: Sequence[Seen], off: Sequence[Seen]) -> list[Positions | None]:
    """Return the position of each key that each step attended to; None where it cannot be told.

    Args:
        steps: the steps of the generation.
        off: those of the generation without a cache.
    """
    reference = _made(steps)
    if reference is None or (steps[-1].keys is not None and not _alike(reference, steps[-1].keys)):
        # Without a cache the last step makes all keys; with latent vectors, attention sees others.
        reference = off[-1].keys
    found: list[Positions | None] = []
    fed = 0
    for number, step in enumerate(steps):
        fed = step.input_ids[-1] if number == 0 else fed + 1
        if reference is None or step.keys is None or not _alike(reference, step.keys):
            found.append(None)
        else:
            found.append(_matched(step.keys, reference[:, :fed]))
    return found


def _made(steps: Sequence[Seen]) -> torch.Tensor | None:
    """Return the keys passed to the cache in all steps, `[kv_heads, positions, head_dim]`."""
    made = [step.made for step in steps if step.made is not None]
    return torch.cat(made, dim=1) if len(made) == len(steps) else None


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.shape[0], a.shape[2]) == (b.shape[0], b.shape[2])


def _matched(keys: torch.Tensor, reference: torch.Tensor) -> Positions | None:
    """Return the nearest reference position of each key; None if some key has none near.

    Where each head keeps positions of its own choice, those of the first head are returned.
    """
    whole = _nearest(_rows(keys), _rows(reference))
    return whole if whole is not None else _nearest(keys[0], reference[0])


def _rows(keys: torch.Tensor) -> torch.Tensor:
    """Return `[positions, kv_heads * head_dim]`."""
    return keys.transpose(0, 1).flatten(1)


def _nearest(keys: torch.Tensor, reference: torch.Tensor) -> Positions | None:
    distance, place = torch.cdist(keys, reference, compute_mode=_EXACT).min(dim=1)
    lengths = torch.linalg.vector_norm(reference, dim=1)[place]
    is_empty = (keys == 0).all(dim=1)
    if bool((~is_empty & (distance > _NEAR * lengths)).any()):
        return None
    pairs = zip(place.tolist(), is_empty.tolist(), strict=True)
    return tuple(None if empty else int(position) for position, empty in pairs)
