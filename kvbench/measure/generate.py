"""One generation: an exact number of greedy tokens, one cache strategy, a synchronized clock."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from kvbench.caches import CacheStrategy
from kvbench.measure.caches import Call, Driven, Driver, Look, make_cache
from kvbench.measure.clock import TokenClock
from kvbench.measure.kept import Kept
from kvbench.measure.loop import Loop
from kvbench.measure.state import ModuleState, ModuleWatch
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = ["Generation", "driver_of", "generate", "generate_options"]


@dataclass(frozen=True)
class Generation:
    """The output of one run.

    Attributes:
        total_s: seconds of the driver's run, with the device synchronized on both sides.
        token_times: seconds from the start to each new token.
        new_ids: the new token ids, `[batch, new tokens]`.
        cache: the cache object; None without one.
        state: other state that the model keeps between steps, on its modules; empty without a
            cache.
    """

    total_s: float
    token_times: tuple[float, ...]
    new_ids: torch.Tensor
    cache: Any
    state: ModuleState = ModuleState()

    @property
    def new_tokens(self) -> int:
        """The number of new tokens per sequence."""
        return self.new_ids.shape[1]

    @property
    def output_sha256(self) -> str:
        """The first sixteen digits of the hash of the new ids, row by row, 64-bit little-endian."""
        return self.prefix_sha256(self.new_tokens)

    def prefix_sha256(self, tokens: int) -> str:
        """Return the same for the first `tokens` of each row: the hash of a shorter generation."""
        ids = self.new_ids[:, :tokens].to("cpu", torch.int64).contiguous().numpy().astype("<i8")
        return hashlib.sha256(ids.tobytes()).hexdigest()[:16]


def generate(
    loaded: LoadedModel,
    inputs: Inputs,
    strategy: CacheStrategy,
    new_tokens: int,
    *,
    clock: TokenClock | None,
    synchronise: Callable[[], None],
    driver: str = "generate",
    kept: Kept | None = None,
) -> Generation:
    """Generate exactly `new_tokens` tokens per sequence and time it.

    The work is the same for every strategy: greedy, no end-of-sequence stop, none of the
    checkpoint's sampling settings.

    Args:
        loaded: the model.
        inputs: prompt ids and mask, `[batch, prompt tokens]`.
        strategy: the cache strategy.
        new_tokens: tokens to generate per sequence.
        clock: stamps each token; None disables the stamps (to measure their cost).
        synchronise: waits until the device has finished all queued work.
        driver: what calls the model, an axis of a case.
        kept: the cache of earlier generations, which this one continues.
    """
    made = driver_of(loaded, strategy, inputs, new_tokens, driver, kept)
    with contextlib.closing(made) as prepared:
        watch = ModuleWatch(loaded.model) if strategy.use_cache else None
        synchronise()
        start = time.perf_counter()
        if clock is not None:
            clock.started = start
        output = prepared.run(clock=clock)
        synchronise()
        total_s = time.perf_counter() - start
    if kept is not None:
        kept.take(output.cache)
    first = 1 if loaded.is_encoder_decoder else inputs.tokens
    return Generation(
        total_s=total_s,
        token_times=clock.times(start) if clock else (),
        new_ids=output.sequences[:, first:],
        cache=output.cache,
        state=(watch.state(output.cache, inputs.input_ids.shape[0]) if watch else ModuleState()),
    )


def driver_of(
    loaded: LoadedModel,
    strategy: CacheStrategy,
    inputs: Inputs,
    new_tokens: int,
    driver: str = "generate",
    kept: Kept | None = None,
) -> Driver:
    """Return a prepared driver of the generation; the choice of driver is made only here.

    The cache object is new, unless one is kept. Close the driver afterwards.

    Raises:
        UserError: the loop cannot drive this model or this strategy.
    """
    call = Call(loaded, inputs, new_tokens)
    made = make_cache(strategy, call) if kept is None else kept.options_for(strategy, call)
    if driver == "loop":
        return Loop(call, made, use_cache=strategy.use_cache)
    if not isinstance(made, dict):
        return made
    return _ThroughGenerate(loaded, inputs, generate_options(loaded, strategy, new_tokens) | made)


class _ThroughGenerate:
    """The driver of most strategies: Transformers' `generate`."""

    def __init__(self, loaded: LoadedModel, inputs: Inputs, options: dict[str, Any]) -> None:
        self._loaded = loaded
        self._inputs = inputs
        self._options = options

    def run(
        self,
        *,
        clock: TokenClock | None = None,
        keep_logits: bool = False,
        along: torch.Tensor | None = None,
        look: Look | None = None,
    ) -> Driven:
        """Generate, as described in `Driver.run`."""
        options = dict(self._options)
        if along is not None:
            first = 1 if self._loaded.is_encoder_decoder else self._inputs.tokens
            options["logits_processor"] = LogitsProcessorList([_Leader(along, first)])
        if keep_logits:
            options["output_logits"] = True
        # PreTrainedModel gets the method from a mixin that its type does not declare.
        run: Callable[..., Any] = self._loaded.model.generate  # type: ignore[assignment]
        with _showing(self._loaded.model, look):
            output = run(
                input_ids=self._inputs.input_ids,
                attention_mask=self._inputs.attention_mask,
                streamer=clock,
                **options,
            )
        # A tuple of [batch, vocabulary], one per step.
        logits = torch.stack([step.cpu() for step in output.logits], dim=1) if keep_logits else None
        return Driven(output.sequences, output.past_key_values, logits)

    def close(self) -> None:
        """Do nothing: there is nothing to clean up."""


class _Leader(LogitsProcessor):
    """Force the given token at each step.

    It returns new scores: changing them in place would also change the raw logits.
    """

    def __init__(self, new_ids: torch.Tensor, first: int) -> None:
        self._new_ids = new_ids
        self._first = first

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # scores: [batch, vocabulary]
        step = input_ids.shape[1] - self._first
        chosen = self._new_ids[:, step : step + 1]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


@contextlib.contextmanager
def _showing(model: torch.nn.Module, look: Look | None) -> Iterator[None]:
    """Pass the last logits of each forward to a callback, if given, while the block runs."""
    if look is None:
        yield
        return

    def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        look(output.logits[:, -1])

    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def generate_options(
    loaded: LoadedModel, strategy: CacheStrategy, new_tokens: int
) -> dict[str, Any]:
    """Return the keyword arguments of `generate` that fix the work for every strategy.

    The arguments that make the strategy's cache are added to them.
    """
    options: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "use_cache": strategy.use_cache,
        # As a keyword None stays None; inside a GenerationConfig it is filled from the model again,
        # and the run stops early.
        "eos_token_id": None,
        # Never used, since nothing ends early; without one every run prints a warning.
        "pad_token_id": 0,
        "return_dict_in_generate": True,
    }
    if loaded.is_encoder_decoder:
        options["decoder_start_token_id"] = _decoder_start(loaded)
    return options


def _decoder_start(loaded: LoadedModel) -> int:
    """Return the token that a decoder starts from, chosen as Transformers does.

    Source: `_prepare_special_tokens` in Transformers' generation/utils.py. T5Gemma names no start
    token and masks the padding token, so the padding token is only the last resort.
    """
    sources = (
        getattr(loaded.model, "generation_config", None),
        loaded.config,
        loaded.config.get_text_config(decoder=True),
    )
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        for source in sources:
            token = getattr(source, name, None)
            if isinstance(token, int):
                return token
    return 0
