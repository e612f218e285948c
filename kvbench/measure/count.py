"""FLOPs of each step of a generation, counted by torch as they are done."""

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

    Torch's counter knows products of matrices, and not every kernel that does several at once:
    attention and experts are put into their plain form meanwhile.

    Returns:
        A number per step, an encoder's with the first; None if the model has no such form.
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
    """Attention and experts as products of matrices, and whether that could be had."""
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
