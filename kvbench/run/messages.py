"""What a supervisor and a worker say to each other: plain data, pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvbench.errors import UserError
from kvbench.records.sample import Stage

__all__ = ["Failed", "Reached", "Refused", "Reply", "Request", "Result", "Started"]


@dataclass(frozen=True, slots=True)
class Request:
    """Call a method of the worker's engine, which the first request makes with these settings."""

    method: str
    arguments: tuple[Any, ...]
    seed: int
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class Started:
    """The worker has imported what it needs and begins with its first request; comes once."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the sample in flight has come; comes any number of times before a reply."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class Result:
    """What the method returned; not `healthy`: the device has had a fault, use another process."""

    value: Any
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """The method raised a UserError."""

    error: UserError


@dataclass(frozen=True, slots=True)
class Failed:
    """The method raised what it should not have."""

    traceback: str


Reply = Result | Refused | Failed
