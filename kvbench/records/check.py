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

    # What it is
    session: int = column("Session of the run that made the check, counted from 0.", default=0)
    checked_at: str = column("UTC time of the check, ISO 8601.")

    # What was checked
    dtype: str = column("Data type of the timed model.")
    cache: str = column("Cache strategy compared with off.")
    check: CheckName = column(
        "tokens: greedy tokens with and without the cache. logits: the same tokens step by step "
        "through the cache and in one forward pass without it; in float32 this decides the "
        "verdict. shape: the cache after each step matches the configuration. leak: caches are "
        "freed after their generation. output: only if samples of a case have tokens that "
        "differ from another strategy's: whether rounding explains the difference."
    )
    checked_dtype: str = column("Data type used for the check.")
    batch_size: int | None = column("Sequences generated at once.", unit="sequences", default=None)
    prompt_tokens: int | None = column(
        "Length of the prompt, padding included.", unit="tokens", default=None
    )
    new_tokens: int | None = column("New tokens per sequence.", unit="tokens", default=None)

    # The outcome
    verdict: Verdict = column(
        "pass. near_tie: tokens diverge where two logits are equal within rounding, which is not "
        "an error. fail. exempt: reported but not judged (a lossy strategy, or diverging tokens in "
        "a dtype with coarse rounding). inconclusive: the check was not possible (not enough "
        "memory, nothing to compare with) or would not have detected a wrong cache. not_finished: "
        "it was interrupted. not_asked: not requested. skipped: in older tables, any of the last "
        "three."
    )
    detail: str = column("Outcome in one sentence.")

    # tokens
    agreement: float | None = column(
        "Share of tokens equal with and without the cache.", default=None
    )
    parted_row: int | None = column(
        "Sequence of the batch, from 0, in which the tokens diverge.", default=None
    )
    parted_at: int | None = column(
        "First new token, from 1, that differs in that sequence.", default=None
    )
    token_off: int | None = column("Token id at that position without the cache.", default=None)
    token_cached: int | None = column("Token id at that position with the cache.", default=None)
    margin: float | None = column(
        "How far the logit of token_cached is below that of token_off at that position, without "
        "the cache: the gap between the two highest logits, unless the cached run chose a third "
        "token.",
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
    max_over_std: float | None = column("Largest such difference.", default=None)
    rms_limit: float | None = column("Upper limit for rms_over_std.", default=None)
    max_limit: float | None = column("Upper limit for max_over_std.", default=None)
    floor_rms_over_std: float | None = column(
        "The model's own rounding level: rms_over_std between the uncached steps and one forward "
        "pass.",
        default=None,
    )
    floor_max_over_std: float | None = column("Largest such difference.", default=None)

    # leak
    generations: int | None = column("Consecutive generations.", default=None)
    leaked_bytes: int | None = column(
        "Memory growth over these generations.", unit="bytes", default=None
    )

    # How far the check reached
    positions: int | None = column(
        "Number of last new tokens whose logits were compared; null for all of them.",
        unit="tokens",
        default=None,
    )
    case_id: str | None = column("Case whose samples an output check is about.", default=None)


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
