"""The engine inside a worker: open a model, run jobs on it, return plain data."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import huggingface_hub
import torch
import transformers

from kvbench.caches import strategy
from kvbench.device_kinds import kind_of
from kvbench.devices import host
from kvbench.devices.faults import is_device_fault
from kvbench.devices.meter import Meter, Readings, trust_flags
from kvbench.devices.registry import backend_of, make_meter, release_memory
from kvbench.errors import UserError
from kvbench.measure.cache import (
    allocated_bytes,
    cache_bytes,
    cache_class,
    cache_layers,
    disk_bytes,
)
from kvbench.measure.caches import situation_of
from kvbench.measure.clock import TokenClock
from kvbench.measure.compiling import Compiled, counting_compilations
from kvbench.measure.environment import read_environment
from kvbench.measure.failures import Failure, classify
from kvbench.measure.generate import Generation, generate
from kvbench.measure.inspection import inspect
from kvbench.measure.pauses import LEAST_PAUSE_S, paused, suspended_s
from kvbench.measure.prefixes import prefixes_of
from kvbench.measure.probe import probe_device
from kvbench.measure.quality import QualityPass, unmeasurable
from kvbench.measure.verify import Work, verify, verify_output, work_of
from kvbench.methods import Job, JobResult
from kvbench.models.config import load_config, loading, quantization_of
from kvbench.models.load import LoadedModel, load_model, parameter_count
from kvbench.models.positions import PositionLimit, position_limit
from kvbench.models.prompts import Encoder, Inputs, check_prompt
from kvbench.models.shapes import read_shapes
from kvbench.models.source import ModelSource, check_weights, locate
from kvbench.plan.case import AUTO, Case, Group, ModelKey, Task
from kvbench.plan.texts import Text
from kvbench.records.check import Check
from kvbench.records.environment import Environment
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.inspection import Inspection
from kvbench.records.quality import Quality, QualitySize, quality_of
from kvbench.records.rates import Rates
from kvbench.records.sample import Stage, utc_now
from kvbench.theory.architecture import Architecture
from kvbench.theory.shapes import Shapes

__all__ = ["LocalEngine"]

_log = logging.getLogger(__name__)


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
        self._open: _OpenModel | None = None
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
        # Groups may differ only in device and dtype: look up and count each model once.
        known: dict[ModelSource, _Known] = {}
        for group in groups:
            _check_dtype(group.model)
            source = locate(group.model.model, group.model.weights)
            if group.model.weights == "pretrained":
                check_weights(source)
            if source not in known:
                known[source] = self._look_at(source)
            parameters, limit, quantized = known[source]
            # The size of quantized weights depends on the method; random ones are not quantized.
            if parameters is not None and not (quantized and group.model.weights == "pretrained"):
                _check_fits(group.model, parameters)
            for prompt in dict.fromkeys(case.prompt for case in group.cases):
                check_prompt(source, prompt, limit, self._trust_remote_code)

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
            config=_config_of(loaded),
            room_bytes=_room_bytes(loaded.device),
        )

    def run(self, job: Job) -> JobResult:
        """Run a job. A failure is a result too."""
        result = self._generate(job)
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
            if model.quality is None or model.quality[0] != (text, size):
                found = QualityPass(
                    model.loaded, text, size=size, encoder=model.encoder, seed=self._seed
                )
                model.quality = (text, size), found
            return model.quality[1].of(cache)
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

    def _look_at(self, source: ModelSource) -> _Known:
        config = load_config(source, self._trust_remote_code)
        # Before a model is built from it, which may fill in missing values.
        limit = position_limit(config)
        if source.gguf_file is not None:
            return _Known(None, limit, quantized=True)
        parameters = None
        try:
            with loading(source):
                parameters = parameter_count(config, self._trust_remote_code)
        except UserError:
            raise
        except Exception:
            # A fault in the model's own code: loading hits the same one, and its rows report it.
            _log.debug("%s cannot be counted", source.name, exc_info=True)
        return _Known(parameters, limit, quantization_of(config) is not None)

    def _load(self, key: ModelKey) -> _OpenModel | LoadFailed:
        try:
            loaded = load_model(key, seed=self._seed, trust_remote_code=self._trust_remote_code)
            encoder = Encoder(loaded, self._seed, self._trust_remote_code)
            return _OpenModel(loaded, encoder, make_meter(loaded.device))
        except Exception as error:
            # A model may fail in its own code or in the device's; the rows of its cases report how.
            return LoadFailed(key, *self._classify(error))

    def _generate(self, job: Job) -> JobResult:
        model, task = self._model, job.task
        case, shorter = task.case, [one.new_tokens for one in job.tasks[:-1]]
        started_at = utc_now()
        stage: Stage = "load"
        clock = TokenClock(lambda: self._on_stage("decode"), model.meter.processor_s)
        fields: dict[str, Any] = {"model_commit": model.loaded.commit}
        self._on_stage(stage)
        try:
            model.check_cache(case.cache, case.driver)
            inputs = model.encoder.encode(case.prompt, case.batch_size)
            fields["prompt_tokens"] = inputs.tokens
            fields |= model.past_positions(case, inputs)
            stage = "prefill"
            self._on_stage(stage)
            observed = model.run(task, inputs, clock)
        except Exception as error:
            # Whatever a model raises is this job's failure, which its rows report; the sweep goes
            # on. Interrupts are not Exceptions and pass through.
            failure = self._classify(error)
            stage = "decode" if clock.tokens else stage
            fields |= {"error": failure.error, "oom_bytes": failure.oom_bytes, "stage": stage}
            times = () if clock.started is None else clock.times(clock.started)
            result = JobResult(failure.status, started_at, fields, times=times)
            generation = None
        else:
            result = model.result(task, started_at, fields, observed)
            generation = observed.generation
        if not shorter:
            return result
        return dataclasses.replace(
            result,
            prefixes=prefixes_of(generation, clock, shorter),
            architecture=model.architecture,
        )

    def _classify(self, error: Exception) -> Failure:
        failure = classify(error)
        if failure.status != "oom" and is_device_fault(error):
            self.healthy = False
        return failure

    @property
    def _model(self) -> _OpenModel:
        if self._open is None:
            raise RuntimeError("no model is open")
        return self._open


class _Known(NamedTuple):
    """A model that generates: parameters if they can be counted, positions, quantized or not."""

    parameters: int | None
    limit: PositionLimit
    quantized: bool


class _Observed(NamedTuple):
    """A finished generation and the readings around it; `compiled` if it may run compiled code."""

    generation: Generation
    readings: Readings
    paused: bool
    compiled: Compiled | None


@dataclasses.dataclass
class _OpenModel:
    loaded: LoadedModel
    encoder: Encoder
    meter: Meter
    # The text and the size used last with this model, and the output without a cache.
    quality: tuple[tuple[Text, QualitySize], QualityPass] | None = None

    def run(self, task: Task, inputs: Inputs, clock: TokenClock) -> _Observed:
        """Generate, with the meter's readings around it."""
        entry = strategy(task.case.cache)
        self.meter.start(task.phase)
        slept = suspended_s()
        try:
            with counting_compilations(entry.compiles) as compiled:
                generation = generate(
                    self.loaded,
                    inputs,
                    entry,
                    task.new_tokens,
                    clock=clock,
                    synchronise=self.meter.synchronise,
                    driver=task.case.driver,
                )
        except BaseException:
            self.meter.cancel()
            raise
        # Read before the generation, and with it the cache, can be freed.
        readings = self.meter.finish()
        # A compiler may work in processes of its own while this one waits.
        stood_still = not compiled.count and paused(clock.ticks, clock.used)
        return _Observed(
            generation,
            readings,
            paused=stood_still or suspended_s() - slept > LEAST_PAUSE_S,
            compiled=compiled if entry.compiles else None,
        )

    @cached_property
    def architecture(self) -> Architecture | None:
        """The architecture as theory reads it; None for a family that it does not know."""
        try:
            return Architecture.from_config(_config_of(self.loaded))
        except UserError:
            return None

    def check_cache(self, cache: str, driver: str) -> None:
        """Refuse a cache strategy that this device, model, or driver cannot run.

        Raises:
            UserError: the strategy cannot run; the message says what is missing.
        """
        reason = strategy(cache).unmet(situation_of(self.loaded, driver))
        if reason is not None:
            raise UserError(reason, kind="cache_unmet", cache=cache)

    def past_positions(self, case: Case, inputs: Inputs) -> dict[str, Any]:
        """Return a flag for rotary positions past the trained ones.

        Raises:
            UserError: the model has a table of positions and the case runs over its end.
        """
        limit = position_limit(self.loaded.config)
        # check() refuses this too; past a table, CUDA would lose its context.
        if limit.prompt is not None and inputs.tokens > limit.prompt:
            raise UserError(
                f"The prompt has {inputs.tokens} tokens; {case.model} takes at most "
                f"{limit.prompt}.",
                kind="too_many_positions",
            )
        # The last generated token is never fed back.
        decoder_prompt = 1 if self.loaded.is_encoder_decoder else inputs.tokens
        needed = decoder_prompt + case.max_new_tokens - 1
        if limit.positions is None:
            return {}
        if limit.kind == "absolute" and needed > limit.positions:
            raise UserError(
                f"{inputs.tokens} prompt tokens and {case.max_new_tokens} new ones need {needed} "
                f"positions; {case.model} has {limit.positions}.",
                kind="too_many_positions",
            )
        past = limit.kind == "rotary" and max(needed, inputs.tokens) > limit.positions
        return {"flags": "past_positions"} if past else {}

    def result(
        self,
        task: Task,
        started_at: str,
        fields: dict[str, Any],
        observed: _Observed,
    ) -> JobResult:
        """Return the result of a finished generation: a failure if tokens are missing or extra."""
        generation = observed.generation
        times = generation.token_times
        fields = (
            fields
            | dataclasses.asdict(observed.readings)
            | {
                "new_tokens": generation.new_tokens,
                "attention_used": self.loaded.attention,
                "output_sha256": generation.output_sha256,
                "kv_cache_bytes": cache_bytes(generation.cache) + generation.state.bytes,
                "cache_allocated_bytes": allocated_bytes(generation.cache) + generation.state.bytes,
                "cache_host_bytes": None
                if kind_of(str(self.loaded.device)).is_host
                else allocated_bytes(generation.cache, on_host=True),
                "cache_disk_bytes": disk_bytes(generation.cache),
                "cache_page_size": getattr(generation.cache, "page_size", None),
                "cache_occupancy": getattr(generation.cache, "occupancy", None),
                "cache_class": cache_class(generation.cache),
                "cache_layers": cache_layers(generation.cache),
                "weights_bytes": self.loaded.weights_bytes,
            }
        )
        if observed.compiled is not None:
            fields |= {
                "compilations": observed.compiled.count,
                "compile_s": observed.compiled.seconds,
            }
        fields["flags"] = self._flags(task, fields, observed)
        if not generation.new_tokens == len(times) == task.new_tokens:
            error = (
                f"{task.new_tokens} tokens requested, {generation.new_tokens} generated, "
                f"{len(times)} time stamps"
            )
            fields |= {"stage": "decode", "error": error}
            return JobResult("mismatch", started_at, fields, times=times)
        return JobResult("ok", started_at, fields, generation.total_s, times)

    def _flags(self, task: Task, fields: dict[str, Any], observed: _Observed) -> str | None:
        case, flags = task.case, (fields.get("flags") or "").split()
        if observed.paused:
            flags.append("paused")
        if task.phase == "measure" and observed.compiled is not None and observed.compiled.count:
            flags.append("recompiled")
        flags += trust_flags(observed.readings)
        if case.attention not in (AUTO, self.loaded.attention):
            flags.append(f"attention_is_{self.loaded.attention}")
        # Some models return a cache object that they never fill.
        signs = {fields["cache_class"] is not None, fields["kv_cache_bytes"] > 0}
        if signs != {strategy(case.cache).use_cache}:
            flags.append("cache_not_as_asked")
        if observed.generation.state.unknown:
            flags.append("state_not_counted")
        return " ".join(flags) or None


def _config_of(loaded: LoadedModel) -> dict[str, Any]:
    """Return the configuration whole, with defaults: they move from release to release."""
    found: dict[str, Any] = json.loads(loaded.model.config.to_json_string(use_diff=False))
    return found


def _quieten() -> None:
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _check_dtype(key: ModelKey) -> None:
    reason = backend_of(key.device).lacks(key.dtype, torch.device(key.device))
    if reason is not None:
        raise UserError(reason, kind="dtype_unmet", dtype=key.dtype)


def _check_fits(key: ModelKey, parameters: int) -> None:
    needed = parameters * torch.finfo(getattr(torch, key.dtype)).bits // 8
    available = backend_of(key.device).free_bytes(torch.device(key.device))
    if needed > available:
        raise UserError(
            f"model: the weights of {key.model} need {needed / 2**30:.1f} GiB in {key.dtype} "
            f"and {key.device} has {available / 2**30:.1f} GiB free: use a smaller model, a "
            "smaller dtype or another device.",
            kind="no_memory",
        )


def _room_bytes(device: torch.device) -> int:
    """Return what a generation may still take: what is free, and what torch keeps unused."""
    backend = backend_of(device)
    return backend.free_bytes(device) + backend.reusable_bytes(device)
