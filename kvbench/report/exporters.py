"""The exporters of `kvbench export`: an entry per benchmark tracker."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXPORTERS", "Exporter"]


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes:
        name: as in `--to`.
        description: what reads it, for `--help`.
        body: the function that makes the document from the measured cases; it is imported only
            when needed, since `--help` needs the entries alone.
    """

    name: str
    description: str
    body: str


EXPORTERS = {
    exporter.name: exporter
    for exporter in (
        Exporter(
            "github-action-benchmark",
            "the GitHub action of that name, as its tool customSmallerIsBetter",
            "kvbench.report.exports:github_action_benchmark",
        ),
        Exporter(
            "bencher",
            "Bencher, as `bencher run --adapter json`",
            "kvbench.report.exports:bencher",
        ),
    )
}
"""The exporters, by name."""
