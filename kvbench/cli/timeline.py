"""Record where the time of a sweep goes, from the start of the process to the end of its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvbench import cli

if TYPE_CHECKING:
    from kvbench.records.events import Event

__all__ = ["PHASES", "Timeline"]

PHASES = (
    "interpreter",
    "imports",
    "worker",
    "model",
    "verification",
    "warm-up",
    "samples",
    "report",
    "other",
)
"""The phases, in order. `worker` is starting its interpreter, its imports, reading the machine and
checking the plan; `other` is the time between phases.
"""


class Timeline:
    """Add up the seconds of each phase, as a listener of a sweep's events.

    Args:
        started: when the process started, as `time.time` gives it; by default as the system reports
            it.
        loaded: when kvbench's own code started; by default as the command line recorded it.
        clock: returns seconds on the same clock; for tests.
    """

    def __init__(
        self,
        started: float | None = None,
        loaded: float = cli.LOADED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._started = _process_start() if started is None else started
        self._since = clock()
        self._phase = "worker"
        self._seconds = dict.fromkeys(PHASES, 0.0)
        # A system may round the start time of a process.
        self._seconds["interpreter"] = max(loaded - self._started, 0.0)
        self._seconds["imports"] = self._since - loaded

    def __call__(self, event: Event) -> None:
        """Record what an event starts or ends."""
        from kvbench.records import events

        match event:
            case events.ModelLoading():
                self._go_on("model")
            case events.Verifying():
                self._go_on("verification")
            case events.SampleStarted():
                self._go_on("warm-up" if event.task.phase == "warmup" else "samples")
            case events.SampleEnded() | events.Verified():
                self._go_on("other")
            case events.SweepEnded():
                self._go_on("report", after="report")
            case events.SweepStarted() | events.ModelLoaded() | events.LoadFailed():
                self._go_on("other")

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase until now."""
        self._go_on(self._phase)
        return dict(self._seconds)

    def text(self) -> str:
        """Return all phases in one line."""
        found = self.seconds()
        parts = ", ".join(f"{phase} {found[phase]:.2f}" for phase in PHASES)
        return f"Seconds: {parts}; {sum(found.values()):.2f} in total."

    def _go_on(self, phase: str, after: str | None = None) -> None:
        """Start a phase; `after` names the time until now if it was not the current phase."""
        now = self._clock()
        self._seconds[after or self._phase] += now - self._since
        self._phase, self._since = phase, now


def _process_start() -> float:
    import psutil

    return psutil.Process().create_time()
