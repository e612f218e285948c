"""Prefixes: the facts about the first tokens of a generation besides their times."""

from __future__ import annotations

from collections.abc import Iterable

from kvbench.analysis.trace import Prefix
from kvbench.measure.clock import TokenClock
from kvbench.measure.generate import Generation
from kvbench.measure.pauses import paused

__all__ = ["prefixes_of"]


def prefixes_of(
    generation: Generation | None, clock: TokenClock, lengths: Iterable[int]
) -> tuple[Prefix, ...]:
    """Return the facts about the shorter lengths that a generation passed through.

    A late pause does not belong to a shorter prefix, and a pause that hardly matters for the whole
    may dominate a short prefix.

    Args:
        generation: None if it failed, since its ids are then lost.
        clock: the clock that stamped it.
        lengths: new tokens of each; lengths that were not reached are left out.
    """
    return tuple(
        Prefix(
            tokens,
            None if generation is None else generation.prefix_sha256(tokens),
            # The first tick is the prompt's.
            ("paused",) if paused(clock.ticks[: tokens + 1], clock.used[: tokens + 1]) else (),
        )
        for tokens in lengths
        if tokens <= clock.tokens
    )
