"""The result of a search for what fits: one row per cache strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kvbench.plan.axes import StrategyAxes

__all__ = ["Find", "FitResult", "FitStatus"]

Find = Literal["batch", "context"]
"""What grows in a search: the sequences generated at once, or the positions of each."""

FitStatus = Literal["found", "at_most", "nothing_fits", "unsupported", "failed"]
"""`at_most`: the largest size that was allowed fits, so that the limit is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult(StrategyAxes):
    """How much fits with one cache strategy. Null means unknown.

    Attributes:
        find: what was searched for.
        status: how the search ended.
        largest: the largest size that was generated; 0 if none was.
        fails_at: the smallest size that ran out of memory.
        predicted: the largest size that fits as far as theory knows, with a tenth of the room left.
        batch_size: sequences; null if that is what was searched for.
        prompt_tokens: of each sequence; null if the context was searched for.
        max_new_tokens: of each sequence.
        room_bytes: memory that was free once the model was loaded.
        needed_bytes: what theory says the largest size needs of it.
        memory_limit_bytes: the given limit of the process.
        attempts: generations, successful or not.
        reason: why nothing was found, or how the process ended at `fails_at` if it did.
    """

    find: Find
    status: FitStatus
    largest: int | None = None
    fails_at: int | None = None
    predicted: int | None = None
    batch_size: int | None = None
    prompt_tokens: int | None = None
    max_new_tokens: int
    room_bytes: int | None = None
    needed_bytes: int | None = None
    memory_limit_bytes: int | None = None
    attempts: int = 0
    reason: str | None = None
