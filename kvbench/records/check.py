"""One verification check of a cache strategy, a row of verify.csv."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kvbench.plan.axes import StrategyAxes
from kvbench.plan.case import ModelKey
from kvbench.records.columns import axes_after, column
from kvbench.records.sample import utc_now

__all__ = ["CHECKS", "VERDICTS", "Check", "CheckName", "Verdict", "check_of", "failed"]

CheckName = Literal["tokens", "logits", "shape", "leak", "output"]
Verdict = Literal[
    "pass", "near_tie", "fail", "exempt", "inconclusive", "not_finished", "not_asked", "skipped"
]

CHECKS: tuple[str, ...] = get_args(CheckName)
VERDICTS: tuple[str, ...] = get_args(Verdict)


@axes_after("checked_at")
@dataclass(frozen=True, slots=True, kw_only=True)
class Check(StrategyAxes):
    """One check of one cache strategy on one model. Null means not applicable."""

    # Identity
    session: int = column("Which session of the run took it, from 0.", default=0)
    checked_at: str = column("UTC time of the check, ISO 8601.")

    # What was checked
    dtype: str = column("Data type that the model is timed in.")
    cache: str = column("Cache strategy that was compared with off.")
    check: CheckName = column(
        "tokens: greedy tokens with the cache and without. logits: the same tokens step by step "
        "through the cache and in one forward without it; in float32 this is the verdict. shape: "
        "the cache after each step is what the configuration says. leak: nothing is left of a "
        "cache after its generation. output: only where the samples of a case have other tokens "
        "than those of another strategy: whether rounding explains where they part."
    )
    checked_dtype: str = column("Data type that the check was made in.")
    batch_size: int | None = column("Sequences generated at once.", unit="sequences", default=None)
    prompt_tokens: int | None = column(
        "Length of the prompt, padding included.", unit="tokens", default=None
    )
    new_tokens: int | None = column("New tokens per sequence.", unit="tokens", default=None)

    # The outcome
    verdict: Verdict = column(
        "pass. near_tie: tokens parted where two logits are equal within rounding, which is no "
        "fault. fail. exempt: reported and not judged (a lossy strategy, or tokens that part in a "
        "dtype whose rounding is coarse). inconclusive: the check could not be made, for want of "
        "memory or of something to compare with, or it would not have seen a wrong cache. "
        "not_finished: it was cut off. not_asked: nobody asked for it. skipped: in older tables, "
        "any of the last three."
    )
    detail: str = column("The outcome in one sentence.")

    # tokens
    agreement: float | None = column("Share of tokens equal in both arms.", default=None)
    parted_row: int | None = column(
        "Row of the batch, from 0, in which the arms parted.", default=None
    )
    parted_at: int | None = column(
        "New token, from 1, at which the arms first differ in that row.", default=None
    )
    token_off: int | None = column("Token id there without the cache.", default=None)
    token_cached: int | None = column("Token id there with the cache.", default=None)
    margin: float | None = column(
        "How far the logit of token_cached lies under that of token_off there, without the cache: "
        "the distance of the two highest, unless the cached arm took a third.",
        default=None,
    )
    margin_over_std: float | None = column(
        "The margin over the standard deviation of the logits at that position.", default=None
    )

    # logits
    rms_over_std: float | None = column(
        "Root mean square of the difference between the logits of the cached steps and those of "
        "one forward, over the standard deviation of the logits.",
        default=None,
    )
    max_over_std: float | None = column("The largest such difference.", default=None)
    rms_limit: float | None = column("The most that rms_over_std may be.", default=None)
    max_limit: float | None = column("The most that max_over_std may be.", default=None)
    floor_rms_over_std: float | None = column(
        "The model's own rounding: the same as rms_over_std between the uncached steps and one "
        "forward.",
        default=None,
    )
    floor_max_over_std: float | None = column("The largest difference there.", default=None)

    # leak
    generations: int | None = column("Generations made in a row.", default=None)
    leaked_bytes: int | None = column(
        "What memory grew by over these generations.", unit="bytes", default=None
    )

    # How far the check reached
    positions: int | None = column(
        "Of how many of the last new tokens the logits were compared; null for all of them.",
        unit="tokens",
        default=None,
    )
    case_id: str | None = column("The case whose samples an output check is about.", default=None)


def check_of(
    key: ModelKey, cache: str, check: CheckName, verdict: Verdict, detail: str, **fields: Any
) -> Check:
    """Return a check of a model and a strategy: identity filled in from the key, the rest null.

    Unless `fields` say otherwise, the check was made in the timed dtype.
    """
    known: dict[str, Any] = {
        "checked_at": utc_now(),
        **dataclasses.asdict(key),
        "cache": cache,
        "check": check,
        "checked_dtype": key.dtype,
        "verdict": verdict,
        "detail": detail,
    }
    return Check(**(known | fields))


def failed(checks: Iterable[Check]) -> bool:
    """Return whether one of the checks found different output with the cache."""
    return any(check.verdict == "fail" for check in checks)
