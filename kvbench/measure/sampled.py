"""The body of the method `sampled`: time steps at chosen positions, inside a short `generate`."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from kvbench.analysis.positions import blocks_of, generation_of, start_tokens
from kvbench.analysis.sampled import Block, Measured
from kvbench.caches import CacheStrategy, strategy
from kvbench.device_kinds import needs_full_warmup
from kvbench.errors import UserError
from kvbench.measure.clock import TokenClock
from kvbench.measure.generate import Generation, generate
from kvbench.measure.pauses import paused
from kvbench.measure.taken import JobCall, Taken
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = ["Sampled", "measure_steps", "take"]

_MOST_PAUSES = 2
"""How often a short generation that stood still is repeated."""


@dataclass(frozen=True)
class Sampled:
    """The measurements at chosen positions.

    Attributes:
        measured: the times, for `kvbench.analysis.sampled`.
        start: the last of the short generations from the case's own prompt, for its cache.
        paused: whether one of the generations stood still each time it was made.
    """

    measured: Measured
    start: Generation
    paused: bool


def take(call: JobCall) -> Taken:
    """Measure the steps from which the rows of a job are estimated."""
    case, begun = call.job.task.case, time.perf_counter()
    found = measure_steps(
        call.loaded,
        call.inputs,
        strategy(case.cache),
        [task.new_tokens for task in call.job.tasks],
        synchronise=call.synchronise,
        processor_s=call.processor_s,
        warm_up=needs_full_warmup(case.device, case.dtype),
        seed=call.job.task.repeat,
        driver=case.driver,
        clock=call.clock,
    )
    return Taken(found.start, found.paused, time.perf_counter() - begun, found.measured)


def measure_steps(
    loaded: LoadedModel,
    inputs: Inputs,
    entry: CacheStrategy,
    lengths: Sequence[int],
    *,
    synchronise: Callable[[], None],
    processor_s: Callable[[], float] | None = None,
    warm_up: bool = False,
    seed: int = 0,
    driver: str = "generate",
    clock: TokenClock | None = None,
) -> Sampled:
    """Time steps at the positions that generations of these lengths pass through.

    Everything is measured inside `generate`, from prompts that reach up to the position. Without a
    cache, the first forward over t tokens is the step at position t. The work of `generate` between
    a token and the next forward is not part of it; it is measured in the short generations and
    added. With a cache, the steps after the prefill are timed.

    Args:
        loaded: the model, a decoder.
        inputs: the case's own prompt.
        entry: the cache strategy.
        lengths: new tokens of each case.
        synchronise: waits until the device has finished all queued work.
        processor_s: reads the processor time of this process, if it does the work itself.
        warm_up: whether to run each step once before it is timed, for devices on which the first
            pass over each new key length is slow.
        seed: the seed of the order of the positions, and of the tokens that fill up a prompt.
        driver: what calls the model, an axis of a case.
        clock: stamps the first short generation, so that a failure tells how far it came.

    Raises:
        UserError: the model has an encoder.
    """
    if loaded.is_encoder_decoder:
        raise UserError(
            "sampled: a model with an encoder cannot be sampled; use --method each.",
            kind="method_unsupported",
        )
    maker = _Maker(loaded, inputs, entry, driver, synchronise, processor_s, seed)
    blocks = list(blocks_of(lengths, cached=entry.use_cache))
    # In a random order, so a machine that slows down meanwhile is not mistaken for a curve.
    random.Random(seed).shuffle(blocks)
    tokens = start_tokens(lengths)
    with maker.watching():
        starts = [maker.make(0, tokens, clock)]
        share_s = _share(starts[0])
        found = []
        for block in blocks:
            if warm_up:
                maker.block(block, share_s)
            found.append(maker.block(block, share_s))
        starts.append(maker.make(0, tokens))
    tail = statistics.fmean(one.generation.total_s - one.times[-1] for one in starts)
    measured = Measured(tuple(one.times for one in starts), tail, tuple(found))
    return Sampled(measured, starts[-1].generation, maker.paused)


@dataclass(frozen=True)
class _Made:
    """A short generation: when its forwards started and its tokens came, on one clock."""

    generation: Generation
    begins: tuple[float, ...]
    stamps: tuple[float, ...]

    @property
    def times(self) -> tuple[float, ...]:
        return self.generation.token_times

    @property
    def gaps(self) -> tuple[float, ...]:
        return tuple(after - before for before, after in itertools.pairwise(self.stamps))


def _share(made: _Made) -> float:
    """Return the median seconds that `generate` takes between a token and the next forward."""
    between = [
        begin - stamp for stamp, begin in zip(made.stamps[:-1], made.begins[1:], strict=True)
    ]
    return statistics.median(between) if between else 0.0


class _Maker:
    """Make short generations from prompts of any length."""

    def __init__(
        self,
        loaded: LoadedModel,
        inputs: Inputs,
        entry: CacheStrategy,
        driver: str,
        synchronise: Callable[[], None],
        processor_s: Callable[[], float] | None,
        seed: int,
    ) -> None:
        self._loaded = loaded
        self._inputs = inputs
        self._entry = entry
        self._driver = driver
        self._synchronise = synchronise
        self._processor_s = processor_s
        self._generator = torch.Generator().manual_seed(seed)
        self._begins: list[float] = []
        self.paused = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the start of each forward, without waiting for the device."""

        def note(*_: Any) -> None:
            self._begins.append(time.perf_counter())

        handle = self._loaded.model.register_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()

    def block(self, tokens: range, share_s: float) -> Block:
        """Time the steps that make these tokens."""
        if self._entry.use_cache:
            made = self.make(*generation_of(tokens, cached=True))
            return Block(tokens.start, made.gaps)
        made = self.make(*generation_of(tokens, cached=False))
        first = made.stamps[0] - made.begins[0] + share_s
        return Block(tokens.start, (first, *made.gaps))

    def make(self, further: int, new_tokens: int, clock: TokenClock | None = None) -> _Made:
        """Generate from the prompt and `further` tokens; repeat if it stood still."""
        inputs = self._longer(further)
        for _ in range(_MOST_PAUSES + 1):
            self._begins.clear()
            clock, own = None, clock or TokenClock(processor_s=self._processor_s)
            generation = generate(
                self._loaded,
                inputs,
                self._entry,
                new_tokens,
                clock=own,
                synchronise=self._synchronise,
                driver=self._driver,
            )
            # The prompt has the first tick, and the end the last.
            made = _Made(generation, tuple(self._begins), tuple(own.ticks[1:-1]))
            if not len(made.begins) == len(made.stamps) == new_tokens:
                raise RuntimeError(
                    f"{len(made.begins)} forwards made {len(made.stamps)} of {new_tokens} tokens"
                )
            if not paused(own.ticks, own.used):
                return made
        self.paused = True
        return made

    def _longer(self, further: int) -> Inputs:
        """Return the prompt plus arbitrary tokens, whose values do not affect a dense model's time.

        Shape `[batch, prompt tokens + further]`.
        """
        ids, mask = self._inputs.input_ids, self._inputs.attention_mask
        vocabulary = self._loaded.config.get_text_config(decoder=True).vocab_size
        shape = (ids.shape[0], further)
        more = torch.randint(vocabulary, shape, generator=self._generator).to(ids)
        return Inputs(torch.cat([ids, more], 1), torch.cat([mask, torch.ones_like(more)], 1))
