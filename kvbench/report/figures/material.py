"""What charts are drawn from: the cases of one or more runs, in lines that differ in one thing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from kvbench.analysis.latency import Latency, latencies
from kvbench.analysis.summary import CaseSummary, summarise_cases
from kvbench.records.run import Run, RunInfo
from kvbench.strategies import BASELINE

__all__ = ["Entry", "Line", "Material", "entries_of", "has_pair"]

_SERIES = ("run", "model", "weights", "device", "dtype", "attention", "cache", "prompt")
_NAMES = {"off": "cache off", "dynamic": "cache on (dynamic)"}


@dataclass(frozen=True)
class Entry:
    """One case of one run."""

    run: str
    info: RunInfo
    case: CaseSummary

    @property
    def hardware(self) -> str:
        """The hardware behind the case's device."""
        return self.info.environment.hardware(self.case.device)

    def value(self, field: str) -> object:
        """A field of the case, or the run's name."""
        return self.run if field == "run" else getattr(self.case, field)


@dataclass(frozen=True)
class Line:
    """Entries that differ in one size alone, in its order.

    Attributes:
        label: the strategy, and of the rest only what differs between the lines of the chart.
        style: number of the strategy among those of the chart: its colour and marker.
        dash: number of the rest among those of the chart: its dash.
    """

    entries: tuple[Entry, ...]
    label: str
    style: int
    dash: int

    @property
    def cache(self) -> str:
        """The cache strategy."""
        return self.entries[0].case.cache

    @property
    def device(self) -> str:
        """The device."""
        return self.entries[0].case.device

    def sizes(self, along: str) -> list[int]:
        """The sizes that it runs along: `max_new_tokens` or `batch_size`."""
        return [int(getattr(entry.case, along)) for entry in self.entries]

    def values(self, field: str, factor: float = 1.0) -> list[float]:
        """A figure of each case, times a factor; NaN where it is not known."""
        found = (getattr(entry.case, field) for entry in self.entries)
        return [math.nan if value is None else value * factor for value in found]


@dataclass(frozen=True)
class Material:
    """The runs of a report, and views on their cases."""

    runs: tuple[Run, ...]

    @cached_property
    def summaries(self) -> dict[str, tuple[CaseSummary, ...]]:
        """The cases of each run, by its name."""
        return {
            name: summarise_cases(run.samples)
            for name, run in zip(self._names, self.runs, strict=True)
        }

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All cases that were timed."""
        return tuple(
            Entry(name, run.info, case)
            for (name, cases), run in zip(self.summaries.items(), self.runs, strict=True)
            for case in cases
            if case.total_s_median is not None
        )

    def lines(
        self, along: str, having: Callable[[CaseSummary], bool] = lambda case: True
    ) -> list[Line]:
        """The entries with a property, as lines along `max_new_tokens` or `batch_size`."""
        entries = [entry for entry in self.entries if having(entry.case)]
        across = "batch_size" if along == "max_new_tokens" else "max_new_tokens"
        fields = (*_SERIES, across)
        found: dict[tuple[object, ...], list[Entry]] = {}
        for entry in entries:
            found.setdefault(tuple(entry.value(f) for f in fields), []).append(entry)
        varied = [f for f in fields if len({e.value(f) for e in entries}) > 1]
        # Panels are by device and colours by strategy: the dash tells the rest.
        rest = [f for f in varied if f not in ("device", "cache")]
        caches = list(dict.fromkeys(e.case.cache for e in self.entries))
        dashes = list(dict.fromkeys(tuple(e.value(f) for f in rest) for e in entries))
        return [
            Line(
                tuple(sorted(members, key=lambda e: int(str(e.value(along))))),
                _label(members[0], rest),
                caches.index(members[0].case.cache),
                dashes.index(tuple(members[0].value(f) for f in rest)),
            )
            for members in found.values()
        ]

    def latencies(self, entries: Iterable[Entry]) -> dict[tuple[str, str], Latency]:
        """The latencies of these entries, by run and case id; none of a run without token times."""
        wanted: dict[str, list[str]] = {}
        for entry in entries:
            wanted.setdefault(entry.run, []).append(entry.case.case_id)
        return {
            (name, case_id): latency
            for name, run in zip(self._names, self.runs, strict=True)
            if name in wanted and (run.path / "tokens.csv").exists()
            for case_id, latency in latencies(run, wanted[name]).items()
        }

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The runs' names, told apart by their folders if need be."""
        names = [run.info.name for run in self.runs]
        if len(set(names)) == len(names):
            return tuple(names)
        return tuple(f"{name} ({number})" for number, name in enumerate(names, start=1))


def _label(entry: Entry, varied: Sequence[str]) -> str:
    parts = [_NAMES.get(entry.case.cache, f"cache {entry.case.cache}")]
    for field in varied:
        value = str(entry.value(field))
        if field == "batch_size":
            value = f"batch {value}"
        elif field == "max_new_tokens":
            value = f"{value} new tokens"
        parts.append(value[:40])
    return ", ".join(parts)


def entries_of(lines: Iterable[Line]) -> list[Entry]:
    """The entries of several lines."""
    return [entry for line in lines for entry in line.entries]


def has_pair(case: CaseSummary) -> bool:
    """Whether a case has a speed-up: it is cached, and its uncached partner was timed."""
    return case.cache != BASELINE and case.speedup is not None
