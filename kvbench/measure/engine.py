"""The engine inside a worker: open a model, run jobs on it, return plain data."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import huggingface_hub
import torch
import transformers

from kvbench.caches import strategy
from kvbench.devices import host
from kvbench.devices.faults import is_device_fault
from kvbench.devices.registry import backend_of, make_meter, release_memory
from kvbench.errors import UserError
from kvbench.measure.admission import check_groups
from kvbench.measure.caches import situation_of
from kvbench.measure.environment import read_environment
from kvbench.measure.failures import Failure, classify
from kvbench.measure.inspection import inspect
from kvbench.measure.job import run_job
from kvbench.measure.open_model import OpenModel, config_of
from kvbench.measure.probe import probe_device
from kvbench.measure.quality import unmeasurable
from kvbench.measure.verify import Work, verify, verify_output, work_of
from kvbench.methods import Job, JobResult
from kvbench.models.load import load_model
from kvbench.models.prompts import Encoder
from kvbench.models.shapes import read_shapes
from kvbench.plan.case import Case, Group, ModelKey
from kvbench.plan.texts import Text
from kvbench.records.check import Check
from kvbench.records.environment import Environment
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.inspection import Inspection
from kvbench.records.quality import Quality, QualitySize, quality_of
from kvbench.records.rates import Rates
from kvbench.records.sample import Stage
from kvbench.theory.shapes import Shapes

__all__ = ["LocalEngine"]


class LocalEngine:
    """Measure in this process. One model is open at a time.

    It silences Transformers' log and progress bars, which would mix with the sweep's own.

    Args:
        seed: seed of random weights and prompt ids.
        trust_remote_code: let Transformers run code that comes with a model.
        on_stage: called with each stage of a sample, to report the stage at which a process was
            lost.

    Attributes:
        healthy: False once a device has reported a fault: a CUDA context does not recover, and
            everything that runs later in this process fails too.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        trust_remote_code: bool = False,
        on_stage: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        self._seed = seed
        self._trust_remote_code = trust_remote_code
        self._on_stage = on_stage
        self._open: OpenModel | None = None
        self.healthy = True
        _quieten()

    def environment(self) -> Environment:
        """Return the machine and the software of this process."""
        return read_environment()

    def probe(self, device: str) -> Rates:
        """Measure the rates of a present device. Closes the open model."""
        self.close()
        return probe_device(device)

    def free_bytes(self, device: str) -> int:
        """Return the free memory of a present device."""
        return backend_of(device).free_bytes(torch.device(device))

    def limit_memory(self, limit: int) -> None:
        """Limit the host memory that this process may use from now on.

        Raises:
            UserError: the system does not support it, or the process needs more than that already.
        """
        # The threads of torch reserve addresses that they never use: start them before.
        torch.ones(1 << 22).sum()
        host.limit_memory(limit)

    def shapes(self, config: Mapping[str, Any]) -> Shapes:
        """Read the cache of a config.json from a model without data.

        Raises:
            UserError: Transformers cannot build it, or its cache cannot be read.
        """
        return read_shapes(config)

    def check(self, groups: Iterable[Group]) -> None:
        """Refuse what cannot be measured at all, before anything is measured.

        Raises:
            UserError: a model is unavailable or does not generate, its weights do not fit, the
                device lacks the dtype, or a prompt cannot be encoded or is too long.
        """
        check_groups(groups, self._trust_remote_code)

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        """Load a model. Return an error instead of raising: it affects only this model's cases."""
        self.close()
        opened = self._load(key)
        if isinstance(opened, LoadFailed):
            # Only now: until it was handled, the exception kept the loaded parts alive.
            if self.healthy:
                release_memory()
            return opened
        self._open = opened
        loaded, meter = opened.loaded, opened.meter
        return ModelLoaded(
            key,
            loaded.seconds,
            loaded.parameters,
            loaded.weights_bytes,
            needs_memory_pass=meter.needs_memory_pass,
            notices=loaded.notices + ((meter.notice,) if meter.notice else ()),
            config=config_of(loaded),
            room_bytes=opened.room_bytes,
        )

    def run(self, job: Job) -> JobResult:
        """Run a job. A failure is a result too."""
        result = run_job(self._model, job, self._classify, self._on_stage)
        if result.status != "ok" and self.healthy:
            release_memory()
        return result

    def verify(
        self,
        cache: str,
        new_tokens: int = 32,
        generations: int = 6,
        reach: Case | None = None,
    ) -> tuple[Check, ...]:
        """Return the checks of a cache strategy on the open model.

        Empty if the strategy cannot run: its rows say why. `reach` is a case whose length and batch
        size are checked as well.
        """
        if self.unmet(cache) is not None:
            return ()
        return verify(
            self._model.loaded,
            cache,
            new_tokens=new_tokens,
            generations=generations,
            seed=self._seed,
            far=None if reach is None else self._work(reach, least=2),
        )

    def unmet(self, cache: str) -> str | None:
        """Return why a cache strategy cannot run on the open model; None if it can."""
        return strategy(cache).unmet(situation_of(self._model.loaded))

    def verify_output(self, case: Case) -> tuple[Check, ...]:
        """Check whether rounding explains that a case's tokens differ from those without a cache.

        Empty if the case cannot be generated: its samples say why.
        """
        work = self._work(case)
        if work is None:
            return ()
        work = dataclasses.replace(work, driver=case.driver)
        return (verify_output(work, case.cache, case.id),)

    def _work(self, case: Case, least: int = 1) -> Work | None:
        try:
            inputs = self._model.encoder.encode(case.prompt, case.batch_size)
        except UserError:
            # The model cannot take this prompt: the rows of its samples say so.
            return None
        return work_of(self._model.loaded, inputs, case.max_new_tokens, least)

    def quality(self, cache: str, text: Text, size: QualitySize) -> Quality:
        """Return how a cache strategy changes the output of the open model.

        An error is not raised: it becomes the reason in the row, and the pass continues.
        """
        model = self._model
        try:
            reason = unmeasurable(model.loaded, cache)
            if reason is not None:
                return quality_of(model.loaded.key, cache, text, reason=reason)
            return model.quality_pass(text, size, self._seed).of(cache)
        except UserError as error:
            reason = str(error)
        except Exception as error:
            # Whatever a model raises with this cache; its own samples report the same.
            reason = self._classify(error).error
        if self.healthy:
            release_memory()
        return quality_of(model.loaded.key, cache, text, reason=reason)

    def inspect(self, case: Case, layer: int) -> Inspection:
        """Inspect a case on the open model, with and without a cache; nothing is timed.

        Raises:
            UserError: the layer does not exist, the prompt does not fit, or the model fails.
        """
        model = self._model
        try:
            model.check_cache(case.cache, case.driver)
            inputs = model.encoder.encode(case.prompt, case.batch_size)
            model.past_positions(case, inputs)
            return inspect(model.loaded, inputs, case, layer, model.encoder.decode)
        except UserError:
            raise
        except Exception as error:
            # Report whatever the model raises: the user asked to look at this model.
            said = self._classify(error).error
            raise UserError(
                f"{case.model} cannot be inspected: {said}", kind="inspection_failed"
            ) from error

    def close(self) -> None:
        """Close the open model and free its memory."""
        if self._open is not None:
            meter, self._open = self._open.meter, None
            gc.collect()
            meter.close()

    def _load(self, key: ModelKey) -> OpenModel | LoadFailed:
        try:
            loaded = load_model(key, seed=self._seed, trust_remote_code=self._trust_remote_code)
            encoder = Encoder(loaded, self._seed, self._trust_remote_code)
            return OpenModel(loaded, encoder, make_meter(loaded.device))
        except Exception as error:
            # A model may fail in its own code or in the device's; the rows of its cases report how.
            return LoadFailed(key, *self._classify(error))

    def _classify(self, error: Exception) -> Failure:
        failure = classify(error)
        if failure.status != "oom" and is_device_fault(error):
            self.healthy = False
        return failure

    @property
    def _model(self) -> OpenModel:
        if self._open is None:
            raise RuntimeError("no model is open")
        return self._open


def _quieten() -> None:
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
