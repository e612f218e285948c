"""Count the compilations in a block, and the time that they take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Compiled", "counting_compilations"]


@dataclass
class Compiled:
    """What was compiled: the frames that torch compiled, and the seconds of all compilation.

    CUDA graphs recorded after compilation count as seconds, not as compilations.
    """

    count: int = 0
    seconds: float = 0.0
    _starts: list[float] = field(default_factory=list, repr=False)

    def begin(self, _args: Any) -> None:
        """Record the start of a compilation; a nested one is part of it."""
        self._starts.append(time.perf_counter())

    def end(self, args: Any) -> None:
        """Record the end of a compilation."""
        start = self._starts.pop()
        if getattr(args.callback_trigger, "name", "") == "DYNAMO":
            self.count += 1
        if not self._starts:
            self.seconds += time.perf_counter() - start


@contextlib.contextmanager
def counting_compilations(wanted: bool) -> Iterator[Compiled]:
    """Count what torch compiles while the block runs, if requested.

    Not always on: importing torch's compiler takes seconds, and most runs compile nothing.
    """
    compiled = Compiled()
    if not wanted:
        yield compiled
        return
    from torch._dynamo.callback import callback_handler

    callback_handler.register_start_callback(compiled.begin)
    callback_handler.register_end_callback(compiled.end)
    try:
        yield compiled
    finally:
        callback_handler.remove_start_callback(compiled.begin)
        callback_handler.remove_end_callback(compiled.end)
