"""The events of a running sweep: plain data for any front end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvbench.plan.case import Case, ModelKey, Task
from kvbench.records.finding import Finding
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
    "Verified",
    "Verifying",
]


@dataclass(frozen=True, slots=True)
class SweepStarted:
    """The run folder exists and the first model is about to be loaded.

    Each case needs at least `samples_per_case` timed samples; the stopping rule decides. A resumed
    sweep has only the unfinished `cases`, and in `begun` their counted samples.
    """

    path: Path
    cases: tuple[Case, ...]
    samples_per_case: int
    begun: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """A model is being loaded or made."""

    model: ModelKey


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model is on its device; `seconds` to load, `weights_bytes` of parameters and buffers.

    `needs_memory_pass`: the device's memory can only be read in a separate, untimed pass. `notices`
    are lines to show about the device. `config` is the model's configuration as in config.json.
    """

    model: ModelKey
    seconds: float
    parameters: int
    weights_bytes: int
    needs_memory_pass: bool = False
    notices: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A model could not be loaded; `unsupported` means that the user can fix it.

    `died`: the process that loaded it was lost, which may not be the model's fault.
    """

    model: ModelKey
    status: Status
    error: str
    oom_bytes: int | None = None
    died: bool = False


@dataclass(frozen=True, slots=True)
class Verifying:
    """A cache strategy is being checked against no cache on the open model."""

    model: ModelKey
    cache: str


@dataclass(frozen=True, slots=True)
class Verified:
    """A verification is done; its checks are on disk."""

    finding: Finding


@dataclass(frozen=True, slots=True)
class SampleStarted:
    """A generation is about to start."""

    task: Task


@dataclass(frozen=True, slots=True)
class SampleEnded:
    """A generation ended, successfully or not, and its row is on disk."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class CaseEnded:
    """No further sample of this case will be taken; `measured` are its counted samples."""

    case: Case
    measured: tuple[Sample, ...]
    failure: Sample | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth one line, once."""

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
    | Verifying
    | Verified
    | SampleStarted
    | SampleEnded
    | CaseEnded
    | Notice
    | SweepEnded
)
Listener = Callable[[Event], None]
