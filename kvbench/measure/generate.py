"""One generation: exactly so many greedy tokens, one cache strategy, a synchronised clock."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kvbench.caches import CacheStrategy
from kvbench.measure.caches import Call, cache_options
from kvbench.measure.clock import TokenClock
from kvbench.measure.state import ModuleState, ModuleWatch
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = ["Generation", "generate"]


@dataclass(frozen=True)
class Generation:
    """What came out of one run.

    Attributes:
        total_s: seconds of `generate`, the device synchronised on both sides.
        token_times: seconds from the start to each new token.
        new_ids: the new token ids, `[batch, new tokens]`.
        cache: the cache object, None without one.
        state: what else the model keeps from step to step, on its modules; nothing without a cache.
    """

    total_s: float
    token_times: tuple[float, ...]
    new_ids: torch.Tensor
    cache: Any
    state: ModuleState = ModuleState()

    @property
    def new_tokens(self) -> int:
        """New tokens per sequence."""
        return self.new_ids.shape[1]

    @property
    def output_sha256(self) -> str:
        """First sixteen digits of the hash of the new ids, row by row, 64-bit little-endian."""
        return self.prefix_sha256(self.new_tokens)

    def prefix_sha256(self, tokens: int) -> str:
        """Return the same of the first `tokens` of each row: the hash of a shorter generation."""
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
) -> Generation:
    """Generate exactly `new_tokens` tokens per sequence and time it.

    The work is the same for every strategy: greedy, no end of sequence, none of the checkpoint's
    sampling settings.

    Args:
        loaded: the model.
        inputs: prompt ids and mask, `[batch, prompt tokens]`.
        strategy: how keys and values are kept.
        new_tokens: tokens to generate per sequence.
        clock: stamps each token; None leaves the stamps out (to measure what they cost).
        synchronise: waits until the device has done all it was given.
    """
    options = generate_options(loaded, strategy, inputs, new_tokens)
    # PreTrainedModel gets the method from a mixin that its type does not tell of.
    run: Callable[..., Any] = loaded.model.generate  # type: ignore[assignment]
    watch = ModuleWatch(loaded.model) if strategy.use_cache else None
    synchronise()
    start = time.perf_counter()
    if clock is not None:
        clock.started = start
    output = run(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, streamer=clock, **options
    )
    synchronise()
    total_s = time.perf_counter() - start
    first = 1 if loaded.is_encoder_decoder else inputs.tokens
    return Generation(
        total_s=total_s,
        token_times=clock.times(start) if clock else (),
        new_ids=output.sequences[:, first:],
        cache=output.past_key_values,
        state=(
            watch.state(output.past_key_values, inputs.input_ids.shape[0])
            if watch
            else ModuleState()
        ),
    )


def generate_options(
    loaded: LoadedModel, strategy: CacheStrategy, inputs: Inputs, new_tokens: int
) -> dict[str, Any]:
    """Return the keyword arguments of `generate` that make it the same work for every strategy.

    The cache object of the strategy is among them, made anew.
    """
    options: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "use_cache": strategy.use_cache,
        # As a keyword None stays None; inside a GenerationConfig it is filled from the model again
        # and the run stops early.
        "eos_token_id": None,
        # Never used, since nothing ends early; without one there is a warning for each run.
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        **cache_options(strategy, Call(loaded, inputs, new_tokens)),
    }
    if loaded.is_encoder_decoder:
        options["decoder_start_token_id"] = _decoder_start(loaded)
    return options


def _decoder_start(loaded: LoadedModel) -> int:
    """The token that a decoder starts from, found as Transformers finds it.

    Source: `_prepare_special_tokens` in Transformers' generation/utils.py. T5Gemma names no start
    token and masks the padding token, so that it must not be taken before the last resort.
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
