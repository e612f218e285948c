"""The outcome of a check, and how an exception becomes one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kvbench.devices.faults import is_device_fault
from kvbench.devices.registry import release_memory
from kvbench.measure.failures import classify
from kvbench.records.check import Verdict

__all__ = ["Outcome", "attempt"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """A verdict, a sentence, and the numbers that go with it, by column name.

    `out_of_memory` means that there is no verdict because memory ran out.
    """

    verdict: Verdict
    detail: str
    fields: dict[str, Any] = field(default_factory=dict)
    out_of_memory: bool = False


def attempt(work: Callable[[], T], *, blame_cache: bool = False) -> T | Outcome:
    """Run an action on a model, and turn any exception into an outcome.

    A check that could not be made is inconclusive. Only with `blame_cache`, when the same work
    succeeded without a cache, is an error a failure of the strategy, unless it is the machine's.
    """
    try:
        return work()
    except Exception as error:
        # A model may fail in its own code or in the device's; the row reports how.
        failure = classify(error)
        of_the_machine = failure.status == "oom" or is_device_fault(error)
        blamed = blame_cache and not of_the_machine
        outcome = Outcome(
            "fail" if blamed else "inconclusive",
            failure.error,
            out_of_memory=failure.status == "oom",
        )
    # Only now: until it was handled, the exception kept the work so far alive. After a device fault
    # there may be nothing left to free.
    with contextlib.suppress(RuntimeError):
        release_memory()
    return outcome
