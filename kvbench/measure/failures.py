"""What an exception means for a sample: a status and one line."""

from __future__ import annotations

import torch

from kvbench.errors import UserError
from kvbench.records.sample import Status

__all__ = ["classify"]

_CPU_OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")


def classify(error: BaseException) -> tuple[Status, str]:
    """The status of the sample that raised `error`, and the error in one line."""
    text = " ".join(str(error).split())
    if len(text) > 500:
        text = text[:497] + "..."
    if isinstance(error, UserError):
        return "unsupported", text
    line = f"{type(error).__name__}: {text}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "oom", line
    if isinstance(error, RuntimeError) and any(mark in text for mark in _CPU_OUT_OF_MEMORY):
        return "oom", line
    return "crashed", line
