"""Turn an exception into a sample's status, one line, and the bytes that were missing."""

from __future__ import annotations

from typing import NamedTuple

from kvbench.devices.faults import bytes_asked_for, is_out_of_memory
from kvbench.errors import UserError
from kvbench.records.sample import Status

__all__ = ["Failure", "classify"]


class Failure(NamedTuple):
    """Why a sample failed; `oom_bytes` is the failed allocation, if known."""

    status: Status
    error: str
    oom_bytes: int | None = None


def classify(error: BaseException) -> Failure:
    """Return the status of the sample that raised `error`, and the error in one line."""
    text = " ".join(str(error).split())
    if len(text) > 500:
        text = text[:497] + "..."
    if isinstance(error, UserError):
        return Failure("unsupported", text)
    line = f"{type(error).__name__}: {text}"
    if is_out_of_memory(error):
        return Failure("oom", line, bytes_asked_for(error))
    return Failure("crashed", line)
