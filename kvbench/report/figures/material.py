"""The data of charts: the cases of one or more runs, and views of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from kvbench.analysis.expected import summarize_run
from kvbench.analysis.latency import Latency, latencies
from kvbench.analysis.recommend import Recommendation, recommend
from kvbench.analysis.summary import CaseSummary
from kvbench.caches import BASELINE
from kvbench.records.run import Run
from kvbench.report.figures.labels import drawable
from kvbench.report.figures.lines import (
    Along,
    Entry,
    Line,
    Texts,
    along_of,
    grids_of,
    lines_of,
    texts_of,
    timed,
)

__all__ = ["Material"]


@dataclass(frozen=True)
class Material:
    """The runs of a report, and views of their cases.

    Attributes:
        runs: the runs.
        baseline: the cache strategy that the others are compared with.
    """

    runs: tuple[Run, ...]
    baseline: str = BASELINE

    @cached_property
    def summaries(self) -> dict[str, tuple[CaseSummary, ...]]:
        """The cases of each run, by its name."""
        return {
            name: summarize_run(run, self.baseline)
            for name, run in zip(self._names, self.runs, strict=True)
        }

    @cached_property
    def recommendations(self) -> dict[str, tuple[Recommendation, ...]]:
        """What to choose for each model of each run, by the run's name."""
        return {
            name: recommend(cases, run.samples)
            for run, (name, cases) in zip(self.runs, self.summaries.items(), strict=True)
        }

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All cases that were timed."""
        return tuple(
            entry
            for (name, cases), run in zip(self.summaries.items(), self.runs, strict=True)
            for entry in timed(name, run.info, cases)
        )

    @cached_property
    def texts(self) -> Texts:
        """What each value is called, the same in all charts."""
        return texts_of(self.entries, drawable)

    def lines(
        self,
        having: Callable[[Entry], bool] = lambda entry: True,
        along: Along | None = None,
        *,
        across_devices: bool = False,
    ) -> list[Line]:
        """Return the entries with a property as lines, along `along_of` them by default.

        Lines are for panels of one device each, or with `across_devices` for one panel with all.
        """
        entries = [entry for entry in self.entries if having(entry)]
        along = along or along_of(entries)
        return lines_of(entries, along, self.texts, across_devices=across_devices)

    def grids(self, having: Callable[[Entry], bool]) -> list[tuple[str, tuple[Entry, ...]]]:
        """Return the entries with a property, over both sizes, with the name of each grid."""
        return grids_of([e for e in self.entries if having(e)], self.texts)

    def latencies(self, entries: Iterable[Entry]) -> dict[tuple[str, str], Latency]:
        """Return the latencies of these entries by run and case id; none without token times."""
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
        """The runs' names, numbered if needed to tell them apart."""
        names = [run.info.name for run in self.runs]
        if len(set(names)) == len(names):
            return tuple(names)
        return tuple(f"{name} ({number})" for number, name in enumerate(names, start=1))
