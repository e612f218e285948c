"""What a check came to, and how an exception comes to it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from kvbench.measure.failures import classify
from kvbench.records.check import Verdict

__all__ = ["Outcome", "attempt"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """A verdict, a sentence, and the numbers that go with them, by the names of their columns."""

    verdict: Verdict
    detail: str
    fields: dict[str, Any] = field(default_factory=dict)


def attempt(work: Callable[[], T]) -> T | Outcome:
    """Do something with a model. Whatever it raises is told, not raised."""
    try:
        return work()
    except Exception as error:
        # A model may fail in its own code or in the device's; the row says how.
        failure = classify(error)
        outcome = Outcome("skipped" if failure.status == "oom" else "fail", failure.error)
    # Only now: while it was handled, the exception held what was made so far.
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # After a fault of the device there may be nothing left to free.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    return outcome
