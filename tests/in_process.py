"""A real engine in the process of the tests, for sweeps that need no worker: one takes seconds."""

from __future__ import annotations

from typing import Any

from kvbench.measure.engine import LocalEngine
from kvbench.plan.case import ModelKey


class InProcess(LocalEngine):
    """A LocalEngine with the methods that the supervisor adds."""

    @property
    def open_model(self) -> ModelKey | None:
        return self._open.loaded.key if self._open else None

    @property
    def process(self) -> int:
        return 1

    def run(self, job: Any, timeout_s: float | None = None) -> Any:
        return super().run(job)

    def take_log(self) -> str:
        return ""


def in_process(
    *, seed: int = 0, trust_remote_code: bool = False, **limits_and_stop: Any
) -> InProcess:
    """Take the place of `WorkerEngine`, whose limits cannot be kept here."""
    return InProcess(seed=seed, trust_remote_code=trust_remote_code)
