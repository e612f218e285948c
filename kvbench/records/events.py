"""What a sweep tells while it runs: plain data that any front end can draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvbench.case import Case, ModelKey, Task
from kvbench.records.sample import Sample, Status

__all__ = [
    "CaseEnded",
    "Event",
    "Listener",
    "LoadFailed",
    "ModelLoaded",
    "ModelLoading",
    "Notice",
    "SampleEnded",
    "SampleStarted",
    "SweepEnded",
    "SweepStarted",
]


@dataclass(frozen=True, slots=True)
class SweepStarted:
    """The run folder exists and the first model is about to be loaded.

    `samples_per_case` timed samples are wanted of each case, or more: the stopping rule decides.
    """

    path: Path
    cases: tuple[Case, ...]
    samples_per_case: int


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """A model is being loaded or made."""

    model: ModelKey


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model is on its device; `seconds` to load, `weights_bytes` of parameters and buffers."""

    model: ModelKey
    seconds: float
    parameters: int
    weights_bytes: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A model could not be loaded; `unsupported` means that a person can mend it."""

    model: ModelKey
    status: Status
    error: str


@dataclass(frozen=True, slots=True)
class SampleStarted:
    """A generation is about to run."""

    task: Task


@dataclass(frozen=True, slots=True)
class SampleEnded:
    """A generation ended, well or not, and its row is on disk."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class CaseEnded:
    """No further sample of this case will be taken; `measured` are its counted samples."""

    case: Case
    measured: tuple[Sample, ...]
    failure: Sample | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth a line, once."""

    text: str


@dataclass(frozen=True, slots=True)
class SweepEnded:
    """The sweep is over. `state` is `finished` or `interrupted`."""

    path: Path
    state: str
    failed: int


Event = (
    SweepStarted
    | ModelLoading
    | ModelLoaded
    | LoadFailed
    | SampleStarted
    | SampleEnded
    | CaseEnded
    | Notice
    | SweepEnded
)
Listener = Callable[[Event], None]
