"""The open model: what it can generate, and one generation with the readings around it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from kvbench.caches import strategy
from kvbench.devices.meter import Meter, Readings
from kvbench.devices.registry import backend_of
from kvbench.errors import UserError
from kvbench.measure.caches import situation_of
from kvbench.measure.clock import TokenClock
from kvbench.measure.compiling import Compiled, counting_compilations
from kvbench.measure.pauses import LEAST_PAUSE_S, suspended_s
from kvbench.measure.quality import QualityPass
from kvbench.measure.taken import JobCall, Taken, take
from kvbench.methods import Job
from kvbench.models.load import LoadedModel
from kvbench.models.positions import position_limit
from kvbench.models.prompts import Encoder, Inputs
from kvbench.plan.case import Case
from kvbench.plan.texts import Text
from kvbench.records.quality import QualitySize
from kvbench.theory.architecture import Architecture

__all__ = ["Observed", "OpenModel", "config_of"]


class Observed(NamedTuple):
    """A finished job and the readings around it; `compiled` if it may run compiled code."""

    taken: Taken
    readings: Readings
    paused: bool
    compiled: Compiled | None


@dataclass
class OpenModel:
    """A loaded model with what encodes its prompts and what reads its device."""

    loaded: LoadedModel
    encoder: Encoder
    meter: Meter
    # The text and the size used last with this model, and the output without a cache.
    _quality: tuple[tuple[Text, QualitySize], QualityPass] | None = field(default=None, init=False)

    def run(self, job: Job, inputs: Inputs, clock: TokenClock) -> Observed:
        """Carry out a job, with the meter's readings around it."""
        entry, meter = strategy(job.task.case.cache), self.meter
        call = JobCall(self.loaded, inputs, job, clock, meter.synchronise, meter.processor_s)
        meter.start(job.task.phase)
        slept = suspended_s()
        try:
            with counting_compilations(entry.compiles) as compiled:
                taken = take(call)
        except BaseException:
            meter.cancel()
            raise
        # Read before the generation, and with it the cache, can be freed.
        readings = meter.finish()
        # A compiler may work in processes of its own while this one waits.
        stood_still = not compiled.count and taken.paused
        return Observed(
            taken,
            readings,
            paused=stood_still or suspended_s() - slept > LEAST_PAUSE_S,
            compiled=compiled if entry.compiles else None,
        )

    @cached_property
    def architecture(self) -> Architecture | None:
        """The architecture as theory reads it; None for a family that it does not know."""
        try:
            return Architecture.from_config(config_of(self.loaded))
        except UserError:
            return None

    @property
    def room_bytes(self) -> int:
        """What a generation may still take: what is free, and what torch keeps unused."""
        device = self.loaded.device
        backend = backend_of(device)
        return backend.free_bytes(device) + backend.reusable_bytes(device)

    def quality_pass(self, text: Text, size: QualitySize, seed: int) -> QualityPass:
        """Return the quality pass over a text, the same one for all strategies in turn."""
        if self._quality is None or self._quality[0] != (text, size):
            found = QualityPass(self.loaded, text, size=size, encoder=self.encoder, seed=seed)
            self._quality = (text, size), found
        return self._quality[1]

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


def config_of(loaded: LoadedModel) -> dict[str, Any]:
    """Return the configuration whole, with defaults: they move from release to release."""
    found: dict[str, Any] = json.loads(loaded.model.config.to_json_string(use_diff=False))
    return found
