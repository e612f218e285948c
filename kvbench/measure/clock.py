"""The clock: record when each new token reaches the host, within the timed run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers.generation.streamers import BaseStreamer

__all__ = ["TokenClock"]


class TokenClock(BaseStreamer):
    """A streamer that records the time of each new token.

    `generate` passes the prompt first and then each step's tokens, after copying them to the host.
    That copy waits for the device, so the stamp marks completion without further synchronization.
    The cost is about 3 us per token (docs/measuring.md).

    Args:
        on_first: called once, after the first new token is stamped.
        processor_s: reads the processor time of this process, if it does the work itself; recorded
            at each stamp. The cost is another 1 to 2 us per token.

    Attributes:
        started: reading of `perf_counter` at the start of the run, recorded here by `generate`: the
            stamps of a failed generation are useful too.
        ticks: readings of `perf_counter` at the prompt, at each new token, and at the end.
        used: readings of `processor_s` at the same moments.
    """

    def __init__(
        self,
        on_first: Callable[[], None] = lambda: None,
        processor_s: Callable[[], float] | None = None,
    ) -> None:
        self._on_first = on_first
        self._processor_s = processor_s
        self.started: float | None = None
        self.ticks: list[float] = []
        self.used: list[float] = []
        self._stamps: list[float] = []
        self._saw_prompt = False

    def put(self, value: Any) -> None:
        """Receive the prompt's ids from `generate`, then `[batch]` new ids per step."""
        now = self._tick()
        if self._saw_prompt:
            self._stamps.append(now)
            if len(self._stamps) == 1:
                self._on_first()
        self._saw_prompt = True

    def note(self, stamps: Sequence[float]) -> None:
        """Record the stamps of all new tokens at once, from a driver that made its own.

        The processor time between them is then unknown.

        Args:
            stamps: readings of `perf_counter`.
        """
        self.used.clear()
        self.ticks += stamps
        if stamps and not self._stamps:
            self._on_first()
        self._stamps += stamps
        self.ticks.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: called by `generate` at the end, when the stamps are complete."""
        self._tick()

    def _tick(self) -> float:
        now = time.perf_counter()
        self.ticks.append(now)
        if self._processor_s is not None:
            self.used.append(self._processor_s())
        return now

    @property
    def tokens(self) -> int:
        """The number of new tokens stamped so far."""
        return len(self._stamps)

    def times(self, start: float) -> tuple[float, ...]:
        """Return the seconds from `start` (a `perf_counter` reading) to each new token."""
        return tuple(stamp - start for stamp in self._stamps)
