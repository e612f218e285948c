"""Quality: how a lossy cache changes the output, a row of quality.csv."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbench.caches import BASELINE
from kvbench.plan.axes import STRATEGY_AXES, StrategyAxes, values_of
from kvbench.plan.case import ModelKey
from kvbench.plan.texts import Text
from kvbench.records.columns import Amount, Number, axes_after, column, columns_of
from kvbench.records.files import CsvAppender, cut_torn_end
from kvbench.records.rows import as_rows, read_columns
from kvbench.records.sample import utc_now

__all__ = [
    "QUALITY_FILE",
    "Quality",
    "QualitySize",
    "append_qualities",
    "latest_qualities",
    "load_qualities",
    "quality_of",
]

QUALITY_FILE = "quality.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySize:
    """How much of a text is used to measure quality.

    Attributes:
        passages: pieces of the text, spread evenly over it.
        prefill: tokens of each that are fed at once.
        steps: tokens of each that follow, one at a time, and are scored.
        needles: numbers hidden in the text, one at a time.
    """

    passages: int = 2
    prefill: int = 256
    steps: int = 64
    needles: int = 2


@axes_after("measured_at")
@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(StrategyAxes):
    """How one cache strategy changes the output of one model. Null means not measured."""

    # What it is
    session: int = column(
        "Session of the run that made the measurement, counted from 0.", default=0
    )
    measured_at: str = column("UTC time of the measurement, ISO 8601.")

    # What was measured: the axes of a strategy, after the time
    baseline: str = column("Cache strategy compared with.", default=BASELINE)
    reason: str | None = column(
        "Why nothing was measured: random weights, a strategy that cannot run, an error. Null if "
        "it was.",
        default=None,
    )

    # On what
    text: str = column("The text: pydoc_data.topics, or the name of the file.")
    text_sha256: str = column("First sixteen digits of the SHA-256 of the text.")
    passages: Number | None = column("Pieces of the text, spread evenly over it.", default=None)
    prefill_tokens: Number | None = column(
        "Tokens of each passage processed at once.", unit="tokens", default=None
    )
    steps: Number | None = column(
        "Tokens of each passage then processed one at a time through the cache; the token after "
        "each is scored.",
        unit="tokens",
        default=None,
    )

    # Teacher-forced: the same text for both
    kl_divergence: Amount | None = column(
        "Mean Kullback-Leibler divergence of the next token's distribution from the baseline's.",
        unit="nats",
        default=None,
    )
    kl_divergence_max: Amount | None = column(
        "Largest divergence of a single token.", unit="nats", default=None
    )
    top1_agreement: Amount | None = column(
        "Share of tokens with the same most likely next token.", default=None
    )
    perplexity: Amount | None = column(
        "Perplexity of the scored tokens, through the cache.", default=None
    )
    baseline_perplexity: Amount | None = column(
        "Perplexity of the same tokens without a cache.", default=None
    )

    perplexity_ratio_high: Amount | None = column(
        "Upper 95 % confidence limit of the perplexity divided by the baseline's, from how much "
        "this ratio varies between the scored tokens.",
        default=None,
    )

    # Free-running: each goes on with its own tokens
    new_tokens: Number | None = column(
        "Greedy tokens generated after each passage.", unit="tokens", default=None
    )
    token_agreement: Amount | None = column(
        "Share of these tokens that equal the baseline's. After the first difference the contexts "
        "differ.",
        default=None,
    )
    parted_passages: Number | None = column(
        "Passages whose continuations differ from the baseline's.", default=None
    )
    parted_at: Number | None = column(
        "The earliest new token, from 1, that differs; null if none does.", default=None
    )

    # Needles
    needles: Number | None = column(
        "Numbers hidden in the text at different depths and asked for at its end.",
        default=None,
    )
    needles_found: Number | None = column("Hidden numbers that were found.", default=None)
    baseline_needles_found: Number | None = column(
        "Hidden numbers that the same model found without a cache.", default=None
    )

    @property
    def perplexity_ratio(self) -> float | None:
        """The perplexity over that of the baseline; null if either is unknown."""
        if self.perplexity is None or not self.baseline_perplexity:
            return None
        return self.perplexity / self.baseline_perplexity

    @property
    def subject(self) -> tuple[str, ...]:
        """The subject: the model as it was loaded, and the strategy."""
        return values_of(self, STRATEGY_AXES)


def quality_of(key: ModelKey, cache: str, text: Text, **fields: Any) -> Quality:
    """Return the quality of a strategy on a model, measured now."""
    known: dict[str, Any] = {
        "measured_at": utc_now(),
        **dataclasses.asdict(key),
        "cache": cache,
        "text": text.name,
        "text_sha256": text.sha256,
    }
    return Quality(**(known | fields))


def append_qualities(folder: Path, rows: Iterable[Quality]) -> None:
    """Append rows to those of a run folder. The caller holds the run's lock.

    Raises:
        OSError: they cannot be written.
    """
    path = folder / QUALITY_FILE
    if path.exists():
        cut_torn_end(path)
    table = CsvAppender(path, [column.name for column in columns_of(Quality)])
    try:
        table.append(dataclasses.astuple(row) for row in rows)
    finally:
        table.close()


def load_qualities(folder: Path) -> tuple[Quality, ...]:
    """Read the quality.csv of a run folder; return nothing if there is none.

    Raises:
        UserError: a value is wrong; the message names the line and the column.
    """
    path = folder / QUALITY_FILE
    return as_rows(read_columns(path, Quality), Quality) if path.exists() else ()


def latest_qualities(rows: Iterable[Quality]) -> dict[tuple[str, ...], Quality]:
    """Return the last row of each model and strategy, by its subject."""
    return {row.subject: row for row in rows}
