"""The supervisor: ask a worker process to measure, and turn its loss into a failed sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kvbench.errors import UserError
from kvbench.methods import Job, JobResult
from kvbench.plan.case import Case, Group, ModelKey
from kvbench.plan.texts import Text
from kvbench.records.check import Check, check_of
from kvbench.records.environment import Environment
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.inspection import Inspection
from kvbench.records.quality import Quality, QualitySize, quality_of
from kvbench.records.rates import Rates
from kvbench.records.sample import utc_now
from kvbench.run.client import Client
from kvbench.run.loss import Lost
from kvbench.theory.shapes import Shapes

__all__ = ["WorkerEngine"]


class WorkerEngine:
    """Measure in a child process, and in a new one when that is lost. Imports no torch.

    Args:
        seed: seed of random weights and prompt ids.
        trust_remote_code: let Transformers run code that comes with a model.
        step_timeout_s: each load, each verification and each strategy's quality is ended after
            this many seconds; by default never.
        stop: called while a model loads or is verified; return True to end that at once.
        memory_limit: bytes that each worker process may use on the host; by default no limit.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        trust_remote_code: bool = False,
        step_timeout_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        memory_limit: int | None = None,
    ) -> None:
        self._step_timeout_s = step_timeout_s
        self._client = Client(seed, trust_remote_code, stop, memory_limit)

    @property
    def open_model(self) -> ModelKey | None:
        """The open model; None again once its process was lost."""
        worker = self._client.worker
        if worker is not None and worker.is_lost():
            # Killed while idle: that costs a restart, but no sample.
            self.close()
        return self._client.open_model

    @property
    def process(self) -> int:
        """The number of worker processes started so far: the number of the current one."""
        return self._client.started

    @property
    def worker_pid(self) -> int | None:
        """The id of the measuring process; None while there is none."""
        worker = self._client.worker
        return worker.process.pid if worker else None

    def environment(self) -> Environment:
        """Return the machine and the software, as the worker sees them.

        Raises:
            UserError: the worker cannot be started.
        """
        environment: Environment = self._client.ask_twice("environment")
        return environment

    def probe(self, device: str) -> Rates:
        """Measure the rates of a device in the worker.

        Raises:
            UserError: the worker was lost during the probe.
        """
        self._client.open_model = None
        rates: Rates = self._client.ask_twice("probe", device)
        return rates

    def free_bytes(self, device: str) -> int:
        """Return the free memory of a device, as the worker sees it.

        Raises:
            UserError: the worker was lost during it.
        """
        free: int = self._client.ask_twice("free_bytes", device)
        return free

    def shapes(self, config: Mapping[str, Any]) -> Shapes:
        """Return what the cache of a model keeps, read in the worker; see LocalEngine.shapes.

        Raises:
            UserError: it cannot be read, or the worker was lost during it.
        """
        shapes: Shapes = self._client.ask_twice("shapes", dict(config))
        return shapes

    def check(self, groups: Iterable[Group]) -> None:
        """Refuse what cannot be measured at all.

        Raises:
            UserError: see LocalEngine.check; or the worker was lost during it.
        """
        self._client.ask_twice("check", tuple(groups))

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        """Load a model in the worker, in place of the open one."""
        self._client.open_model = None
        try:
            opened: ModelLoaded | LoadFailed = self._client.ask(
                "open", key, timeout_s=self._step_timeout_s
            )
        except Lost as lost:
            # Out of memory and time-outs are results; another loss may not be the model's fault.
            hint = "; case_timeout also limits loading" if lost.status == "timeout" else ""
            return LoadFailed(
                key, lost.status, f"{lost.error}{hint}", died=lost.status == "crashed"
            )
        if isinstance(opened, ModelLoaded):
            self._client.open_model = key
        return opened

    def verify(
        self,
        cache: str,
        new_tokens: int = 32,
        generations: int = 6,
        reach: Case | None = None,
    ) -> tuple[Check, ...]:
        """Verify a strategy on the open model; incomplete if the worker is lost during it."""
        key = self._client.open_model
        if key is None:
            raise RuntimeError("no model is loaded")
        try:
            checks: tuple[Check, ...] = self._client.ask(
                "verify", cache, new_tokens, generations, reach, timeout_s=self._step_timeout_s
            )
        except Lost as lost:
            detail = f"The check was interrupted: {lost.error}."
            return (check_of(key, cache, "logits", "not_finished", detail),)
        return checks

    def unmet(self, cache: str) -> str | None:
        """Return why a strategy cannot run on the open model; None if it can.

        Raises:
            UserError: the worker was lost during it.
        """
        try:
            reason: str | None = self._client.ask("unmet", cache)
        except Lost as lost:
            raise UserError(f"Nothing can be measured: {lost.error}", kind="worker_lost") from lost
        return reason

    def verify_output(self, case: Case) -> tuple[Check, ...]:
        """Compare the outputs of a case; inconclusive if the worker is lost during it."""
        try:
            checks: tuple[Check, ...] = self._client.ask(
                "verify_output", case, timeout_s=self._step_timeout_s
            )
        except Lost as lost:
            detail = f"The samples have other tokens; looking at it was cut off: {lost.error}."
            fields = {"case_id": case.id, "checked_dtype": "float32"}
            return (
                check_of(case.model_key, case.cache, "output", "inconclusive", detail, **fields),
            )
        return checks

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        """Run a job. A worker that is lost during it, or is too slow, is a failure."""
        started_at = utc_now()
        try:
            result: JobResult = self._client.ask("run", job, timeout_s=timeout_s, stoppable=False)
        except Lost as lost:
            return JobResult(lost.status, started_at, {"stage": lost.stage, "error": lost.error})
        return result

    def quality(self, cache: str, text: Text, size: QualitySize) -> Quality:
        """Return how a strategy changes the output of the open model; see LocalEngine.quality.

        If the worker is lost during it, the row has the reason.
        """
        key = self._client.open_model
        if key is None:
            raise RuntimeError("no model is open")
        try:
            quality: Quality = self._client.ask(
                "quality", cache, text, size, timeout_s=self._step_timeout_s
            )
        except Lost as lost:
            return quality_of(key, cache, text, reason=lost.error)
        return quality

    def inspect(self, case: Case, layer: int) -> Inspection:
        """Inspect a case on the open model with and without a cache.

        Raises:
            UserError: see LocalEngine.inspect; or the worker was lost during it.
        """
        try:
            inspection: Inspection = self._client.ask("inspect", case, layer)
        except Lost as lost:
            raise UserError(
                f"{case.model} cannot be inspected: {lost.error}", kind="worker_lost"
            ) from lost
        return inspection

    def take_log(self) -> str:
        """Return the last output of the last lost worker, once."""
        return self._client.take_log()

    def close(self) -> None:
        """End the worker, and release everything it holds of the device."""
        self._client.close()
