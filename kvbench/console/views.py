"""Show the progress of a sweep: as a live bar, as lines, as JSON, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from kvbench.analysis.forecast import LONG_S, Forecaster
from kvbench.console.printing import make_console, print_json
from kvbench.media import for_terminal
from kvbench.plan.case import Case, Task
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
    Verified,
    Verifying,
)
from kvbench.report.units import about, seconds, significant
from kvbench.report.words import proof

__all__ = [
    "Forecast",
    "JsonView",
    "LineView",
    "LiveView",
    "QuietView",
    "View",
    "make_view",
    "progress",
]


class View(Protocol):
    """A front end of a sweep: a listener that may control the terminal while the sweep runs."""

    def __call__(self, event: Event) -> None:
        """Draw one event."""

    def close(self) -> None:
        """Release the terminal."""


def make_view(console: Console, *, quiet: bool, as_json: bool) -> View:
    """Return the front end for this terminal and these options."""
    below: View
    if quiet:
        below = QuietView()
    elif console.is_terminal:
        below = LiveView(console)
    else:
        below = LineView(console)
    return JsonView(below) if as_json else below


@contextlib.contextmanager
def progress(*, stderr: bool) -> Iterator[View]:
    """Show what happens while the block runs, then release the terminal."""
    view = make_view(make_console(stderr=stderr), quiet=False, as_json=False)
    try:
        yield view
    finally:
        view.close()


class QuietView:
    """Draw nothing."""

    def __call__(self, event: Event) -> None:
        """Ignore the event."""

    def close(self) -> None:
        """Do nothing: no terminal is held."""


class JsonView:
    """Print one JSON object per sample on standard output; leave the rest to another view."""

    def __init__(self, below: View) -> None:
        self._below = below

    def __call__(self, event: Event) -> None:
        """Print a sample as it ends."""
        if isinstance(event, SampleEnded):
            print_json(dataclasses.asdict(event.sample))
        self._below(event)

    def close(self) -> None:
        """Close the other view."""
        self._below.close()


class LineView:
    """Print a line for each model and each finished case, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._done = self._total = 0
        self._forecast = Forecast()

    def __call__(self, event: Event) -> None:
        """Print the event if it is worth a line."""
        self._forecast.note(event)
        warning = self._forecast.warning(event)
        if warning is not None:
            self._print(warning)
        if isinstance(event, SweepStarted):
            self._total = len(event.cases)
        elif isinstance(event, CaseEnded):
            self._done += 1
            elapsed = seconds(time.monotonic() - self._start)
            ended = _case_line(event).removesuffix(".")
            self._print(f"[{self._done}/{self._total}] {ended}, after {elapsed}")
        else:
            line = _line(event)
            if line:
                self._print(line)

    def close(self) -> None:
        """Do nothing: no terminal is held."""

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


class LiveView:
    """Show a progress bar with the current case, samples taken, elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            # On a narrow terminal the case shrinks first; the numbers stay.
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, figures="")
        self._forecast = Forecast()

    def __call__(self, event: Event) -> None:
        """Move the bar, and print a line when a model or case ends."""
        self._forecast.note(event)
        warning = self._forecast.warning(event)
        if warning is not None:
            self._console.print(warning)
        if isinstance(event, SweepStarted):
            self._progress.start()
        elif isinstance(event, SampleStarted):
            self._progress.update(self._task, description=for_terminal(_task_line(event.task)))
        elif isinstance(event, Verifying):
            question = f"{event.model.device}: {event.cache}, checking against off"
            self._progress.update(self._task, description=for_terminal(question))
        elif isinstance(event, CaseEnded):
            self._console.print(_case_line(event))
        else:
            line = _line(event)
            if line:
                self._console.print(line)
        self._progress.update(
            self._task,
            total=self._forecast.expected,
            completed=self._forecast.taken,
            figures=self._forecast.text(),
        )

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


class Forecast:
    """Track how far a sweep is: samples taken and expected, elapsed and remaining time.

    A case still needs at least the samples that the plan asks for. Until it was timed, their
    duration is predicted; see `kvbench.analysis.forecast`.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._wanted = 0
        self._times: dict[str, list[float]] = {}
        self._ended: set[str] = set()
        self._forecaster = Forecaster((), lambda seconds: (0, 0))
        self._warned: set[Case] = set()

    def note(self, event: Event) -> None:
        """Update the forecast from an event."""
        if isinstance(event, SampleEnded):
            self._forecaster.note(event.sample)
        if isinstance(event, SweepStarted):
            self._wanted = event.samples_per_case
            self._times = {case.id: [] for case in event.cases}
            wanted = event.samples_per_case
            # The stopping rule may require more: one at a time, until the case ends.
            self._forecaster = Forecaster(
                event.cases, lambda seconds: (wanted, wanted + 1), verify=False
            )
            for sample in event.begun:
                self._times[sample.case_id].append(sample.total_s or 0.0)
                self._forecaster.note(sample)
        elif isinstance(event, ModelLoaded):
            self._forecaster.loaded(event.model, event.config)
        elif isinstance(event, SampleEnded) and event.sample.phase == "measure":
            if event.sample.total_s is not None:
                self._times[event.sample.case_id].append(event.sample.total_s)
        elif isinstance(event, CaseEnded):
            self._ended.add(event.case.id)
            self._forecaster.ended(event.case)

    def warning(self, event: Event) -> str | None:
        """Return a line before a case that is likely to take hours; None for other events."""
        if not isinstance(event, SampleStarted) or not self._forecaster.informed:
            return None
        case = event.task.case
        if case in self._warned or self._forecaster.case_seconds(case) < LONG_S:
            return None
        self._warned.add(case)
        one, whole = self._forecaster.sample_seconds(case), self._forecaster.case_seconds(case)
        return (
            f"{case.device}: {case.label} is likely to take {about(whole)} "
            f"({about(one)} a sample). Ctrl-C stops the sweep; --resume goes on with it."
        )

    @property
    def taken(self) -> int:
        """The timed samples so far."""
        return sum(len(times) for times in self._times.values())

    @property
    def expected(self) -> int:
        """The timed samples expected at the end, as far as is known now."""
        return self.taken + sum(self._left(name) for name in self._times)

    @property
    def remaining_s(self) -> float | None:
        """The seconds left; None until something was timed, since it would be a guess."""
        waiting = [name for name in self._times if self._left(name)]
        if waiting and not self._forecaster.informed:
            return None
        return self._forecaster.remaining_s

    def text(self) -> str:
        """Return a text such as `7/24 samples, 1:05, 2:30 left`."""
        figures = f"{self.taken}/{self.expected} samples, {_clock(time.monotonic() - self._start)}"
        left = self.remaining_s
        return figures if left is None else f"{figures}, {_clock(left)} left"

    def _left(self, name: str) -> int:
        return 0 if name in self._ended else max(self._wanted - len(self._times[name]), 1)


def _task_line(task: Task) -> str:
    kinds = {"warmup": "warm-up", "memory": "memory pass"}
    kind = kinds.get(task.phase, f"sample {task.repeat + 1}")
    return f"{task.case.device}: {task.case.label}, {kind}"


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
        return f"loading failed ({event.status}): {event.error}"
    if isinstance(event, Verified):
        return proof(event.finding)
    if isinstance(event, Notice):
        return event.text
    return None


def _case_line(event: CaseEnded) -> str:
    case = f"{event.case.device}: {event.case.label}"
    if event.failure is not None:
        return f"{case}: {event.failure.status}: {event.failure.error}"
    times = [sample.total_s for sample in event.measured if sample.total_s is not None]
    count = f"{len(times)} sample{'s' * (len(times) != 1)}"
    return f"{case}: {seconds(statistics.median(times))}, {count}"


def _clock(value: float) -> str:
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
