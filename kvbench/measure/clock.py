"""The clock: when each new token reached the host, read inside the timed run itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers.generation.streamers import BaseStreamer

__all__ = ["TokenClock"]


class TokenClock(BaseStreamer):
    """A streamer that notes the time of each new token.

    `generate` hands over the prompt first and then each step's tokens, after copying them to the
    host: that copy waits for the device, so the stamp marks completion without a synchronisation
    of its own. The cost is about 3 us a token (docs/measuring.md).

    `on_first` is called once, after the first new token was stamped.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        self._on_first = on_first
        self._stamps: list[float] = []
        self._saw_prompt = False

    def put(self, value: Any) -> None:
        """Called by `generate` with the prompt's ids, then with `[batch]` new ids a step."""
        if self._saw_prompt:
            self._stamps.append(time.perf_counter())
            if len(self._stamps) == 1:
                self._on_first()
        self._saw_prompt = True

    def end(self) -> None:
        """Called by `generate` at the end; the stamps are complete already."""

    @property
    def tokens(self) -> int:
        """New tokens stamped so far."""
        return len(self._stamps)

    def times(self, start: float) -> tuple[float, ...]:
        """Seconds from `start` (a `perf_counter` reading) to each new token."""
        return tuple(stamp - start for stamp in self._stamps)
