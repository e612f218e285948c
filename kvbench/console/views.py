"""How a sweep shows while it runs: a live bar, lines, JSON, or nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from kvbench.case import Case
from kvbench.records.events import (
    CaseEnded,
    Event,
    LoadFailed,
    ModelLoaded,
    ModelLoading,
    Notice,
    SampleEnded,
    SampleStarted,
    SweepStarted,
)
from kvbench.report.units import seconds, significant

__all__ = ["JsonView", "LineView", "LiveView", "QuietView", "RemainingTime", "View", "make_view"]


class View(Protocol):
    """A front end of a sweep: a listener that may hold the terminal while it runs."""

    def __call__(self, event: Event) -> None:
        """Draw one event."""

    def close(self) -> None:
        """Give the terminal back."""


def make_view(console: Console, *, quiet: bool, as_json: bool) -> View:
    """The front end for this terminal and these options."""
    below: View
    if quiet:
        below = QuietView()
    elif console.is_terminal:
        below = LiveView(console)
    else:
        below = LineView(console)
    return JsonView(below) if as_json else below


class QuietView:
    """Draws nothing."""

    def __call__(self, event: Event) -> None:
        """Ignore the event."""

    def close(self) -> None:
        """Nothing is held."""


class JsonView:
    """One JSON object per sample on standard output; the rest is left to another view."""

    def __init__(self, below: View) -> None:
        self._below = below

    def __call__(self, event: Event) -> None:
        """Print a sample as it ends."""
        if isinstance(event, SampleEnded):
            print(json.dumps(dataclasses.asdict(event.sample), ensure_ascii=False), flush=True)
        self._below(event)

    def close(self) -> None:
        """Close the other view."""
        self._below.close()


class LineView:
    """A line for each model and each finished case, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._done = self._total = 0

    def __call__(self, event: Event) -> None:
        """Print what the event says, if it says something."""
        if isinstance(event, SweepStarted):
            self._total = len(event.cases)
        elif isinstance(event, CaseEnded):
            self._done += 1
            elapsed = seconds(time.monotonic() - self._start)
            self._print(f"[{self._done}/{self._total}] {_case_line(event)}, after {elapsed}")
        else:
            line = _line(event)
            if line:
                self._print(line)

    def close(self) -> None:
        """Nothing is held."""

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


class LiveView:
    """A progress bar with the current case, count, elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("cases, {task.fields[clock]}", markup=False),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._estimate = RemainingTime()

    def __call__(self, event: Event) -> None:
        """Move the bar, and print a line where something ended."""
        self._estimate.note(event)
        if isinstance(event, SweepStarted):
            self._task = self._progress.add_task("starting", total=len(event.cases), clock="")
            self._progress.start()
        elif self._task is None:
            return
        elif isinstance(event, SampleStarted):
            task = event.task
            kind = {"warmup": "warm-up", "memory": "memory pass"}.get(
                task.phase, f"sample {task.repeat + 1}"
            )
            self._update(f"{task.case.device}: {task.case.label}, {kind}")
        elif isinstance(event, CaseEnded):
            self._progress.advance(self._task)
            self._console.print(_case_line(event))
        else:
            line = _line(event)
            if line:
                self._console.print(line)
        if isinstance(event, (SampleStarted, SampleEnded)):
            self._progress.update(self._task, clock=self._estimate.text())

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()

    def _update(self, description: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=description)


class RemainingTime:
    """Elapsed and remaining time: samples left per case times what such a sample took."""

    ASSUMED_SAMPLES = 5

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._cases: dict[str, Case] = {}
        self._times: dict[str, list[float]] = {}
        self._ended: set[str] = set()
        self._most = 0

    def note(self, event: Event) -> None:
        """Learn from an event."""
        if isinstance(event, SweepStarted):
            self._cases = {case.id: case for case in event.cases}
        elif isinstance(event, SampleEnded) and event.sample.phase == "measure":
            if event.sample.total_s is not None:
                self._times.setdefault(event.sample.case_id, []).append(event.sample.total_s)
        elif isinstance(event, CaseEnded):
            self._ended.add(event.case.id)
            self._most = max(self._most, len(event.measured))

    def text(self) -> str:
        """Such as `1:05 elapsed, about 2:30 left`."""
        elapsed = f"{_clock(time.monotonic() - self._start)} elapsed"
        left = self._left()
        return elapsed if left is None else f"{elapsed}, about {_clock(left)} left"

    def _left(self) -> float | None:
        """None until each case has been timed once: before, it would be a guess."""
        if any(name not in self._times for name in self._cases if name not in self._ended):
            return None
        wanted = self._most or self.ASSUMED_SAMPLES
        return math.fsum(
            max(wanted - len(times), 1) * times[-1]
            for name, times in self._times.items()
            if name not in self._ended
        )


def _line(event: Event) -> str | None:
    if isinstance(event, ModelLoading):
        return f"loading {event.model.label}"
    if isinstance(event, ModelLoaded):
        size = significant(event.weights_bytes / 2**20)
        return (
            f"loaded {event.parameters / 1e6:,.1f} M parameters, {size} MiB, in "
            f"{seconds(event.seconds)}"
        )
    if isinstance(event, LoadFailed):
        return f"not loaded ({event.status}): {event.error}"
    if isinstance(event, Notice):
        return event.text
    return None


def _case_line(event: CaseEnded) -> str:
    case = f"{event.case.device}: {event.case.label}"
    if event.failure is not None:
        return f"{case}: {event.failure.status}: {event.failure.error}"
    times = sorted(sample.total_s for sample in event.measured if sample.total_s is not None)
    middle = times[len(times) // 2]
    return f"{case}: {seconds(middle)}, {len(times)} sample{'s' * (len(times) != 1)}"


def _clock(value: float) -> str:
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
