"""Positions: at which tokens the method `sampled` times steps, and in which generations."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

__all__ = ["MOST_POSITIONS", "blocks_of", "generation_of", "start_tokens"]

MOST_POSITIONS = 24
"""The most positions to measure, however long the generation."""

_TOKENS_PER_POSITION = 16
"""A shorter generation has one position per this many tokens, to keep sampling cheap."""

_LEAST_POSITIONS = 10

_MOST_START = 16
"""The most tokens at the beginning that are generated and timed in full; at least eight."""

_LEAST_START = 8

_STEPS = (2, 8)
"""The minimum and maximum number of steps at each position; more if the table has many lengths."""

_SHARE = 16
"""All steps together take about a sixteenth of the time of separate generations."""


def start_tokens(lengths: Iterable[int]) -> int:
    """Return how many tokens at the beginning are generated in full, for these lengths."""
    lengths = tuple(lengths)
    return min(max(min(lengths), _LEAST_START), _MOST_START, max(lengths))


def blocks_of(lengths: Iterable[int], *, cached: bool) -> tuple[range, ...]:
    """Return the tokens whose steps are measured, as rising ranges, one per position.

    The first token after the start and the last one are among them. Positions are denser at the
    beginning, evenly spaced in the square root: short lengths depend on few of them.

    Args:
        lengths: the new tokens of each case.
        cached: whether a step is cheap compared with the prefill before it: then more steps are
            timed after each prefill.
    """
    lengths = tuple(lengths)
    first, last = start_tokens(lengths) + 1, max(lengths)
    if last < first:
        return ()
    wanted = max(_LEAST_POSITIONS, (last - first) // _TOKENS_PER_POSITION)
    roots = np.linspace(math.sqrt(first), math.sqrt(last), min(MOST_POSITIONS, wanted))
    middles = sorted({first, last, *(round(root * root) for root in roots)})
    least, most = _STEPS
    steps = min(max(sum(lengths) // (_SHARE * len(middles)), least), most) * (2 if cached else 1)
    blocks = []
    for middle in middles:
        start = min(max(middle - (steps - 1) // 2, first), max(last - steps + 1, first))
        blocks.append(range(start, min(start + steps, last + 1)))
    return tuple(dict.fromkeys(blocks))


def generation_of(block: range, *, cached: bool) -> tuple[int, int]:
    """Return the short generation that times the steps of these tokens.

    Returns: by how many tokens its prompt is longer than the case's own, and its new tokens. With a
    cache, the prefill makes the token before, and each later pass is one of the steps. Without one,
    the first pass is a step too.
    """
    if cached:
        return block.start - 2, len(block) + 1
    return block.start - 1, len(block)
