"""Prefixes: what is known of the first tokens of a generation besides their times."""

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
    """Return what is known of the shorter lengths that a generation passed through.

    A pause late in a generation is none of a shorter one's, and one that hardly counts in the
    whole may be most of a short one.

    Args:
        generation: None if it failed: its ids are lost then.
        clock: that stamped it.
        lengths: new tokens of each; those that were not reached are left out.
    """
    return tuple(
        Prefix(
            tokens,
            None if generation is None else generation.prefix_sha256(tokens),
            # The prompt has the first tick.
            ("paused",) if paused(clock.ticks[: tokens + 1], clock.used[: tokens + 1]) else (),
        )
        for tokens in lengths
        if tokens <= clock.tokens
    )
