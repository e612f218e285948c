"""Count the FLOPs of each step of a generation with torch's counter."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from kvbench.caches import CacheStrategy
from kvbench.measure.generate import generate
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = ["count_flops"]


def count_flops(
    loaded: LoadedModel, inputs: Inputs, arm: CacheStrategy, new_tokens: int
) -> list[int] | None:
    """Generate once more, with eager attention, and count the FLOPs of each forward.

    Torch's counter knows matrix products, but not every fused kernel, so attention and experts run
    in their plain form.

    Returns: One number per step, with the encoder's in the first; None if the model has no plain
        form.
    """
    with _plain(loaded.model) as is_plain:
        return _count(loaded, inputs, arm, new_tokens) if is_plain else None


def _count(loaded: LoadedModel, inputs: Inputs, arm: CacheStrategy, new_tokens: int) -> list[int]:
    counter, sums = FlopCounterMode(display=False), [0]
    handle = loaded.model.register_forward_hook(lambda *_: sums.append(counter.get_total_flops()))
    try:
        with counter:
            generate(loaded, inputs, arm, new_tokens, clock=None, synchronise=lambda: None)
    finally:
        handle.remove()
    return [after - before for before, after in itertools.pairwise(sums)]


@contextlib.contextmanager
def _plain(model: Any) -> Iterator[bool]:
    """Switch attention and experts to plain matrix products, and yield whether that worked."""
    config = model.config
    attention = config._attn_implementation
    experts = getattr(config, "_experts_implementation", None)
    try:
        model.set_attn_implementation("eager")
        if experts is not None:
            model.set_experts_implementation("eager")
        yield config._attn_implementation == "eager"
    finally:
        model.set_attn_implementation(attention)
        if experts is not None:
            model.set_experts_implementation(experts)
