"""The messages between a supervisor and a worker: plain data, pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvbench.errors import UserError
from kvbench.records.sample import Stage

__all__ = ["Failed", "Reached", "Refused", "Reply", "Request", "Result", "Started"]


@dataclass(frozen=True, slots=True)
class Request:
    """Call a method of the worker's engine; the first request creates it with these settings."""

    method: str
    arguments: tuple[Any, ...]
    seed: int
    trust_remote_code: bool
    memory_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The worker finished its imports and starts its first request; sent once."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the current sample has come; sent any number of times before a reply."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class Result:
    """The return value of a method; not `healthy`: the device had a fault, use another process."""

    value: Any
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """The method raised a UserError."""

    error: UserError


@dataclass(frozen=True, slots=True)
class Failed:
    """The method raised an unexpected error."""

    traceback: str


Reply = Result | Refused | Failed
