"""What an exception means for a sample: a status and one line."""

from __future__ import annotations

from kvbench.errors import UserError
from kvbench.models.faults import is_out_of_memory
from kvbench.records.sample import Status

__all__ = ["classify"]


def classify(error: BaseException) -> tuple[Status, str]:
    """The status of the sample that raised `error`, and the error in one line."""
    text = " ".join(str(error).split())
    if len(text) > 500:
        text = text[:497] + "..."
    if isinstance(error, UserError):
        return "unsupported", text
    line = f"{type(error).__name__}: {text}"
    if is_out_of_memory(error):
        return "oom", line
    return "crashed", line
