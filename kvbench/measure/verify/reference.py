"""What all strategies of a model are compared with, made once: the uncached generation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from kvbench.caches import BASELINE, strategy
from kvbench.measure.verify.attempt import Outcome, attempt
from kvbench.measure.verify.runs import Run, Work, greedy, one_forward

__all__ = ["forward_over", "uncached"]

T = TypeVar("T")

_KNOWN: weakref.WeakKeyDictionary[torch.nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()
"""By the model, so that they go with it, then by dtype, attention and what is generated."""


def uncached(work: Work) -> Run | Outcome:
    """Return the generation without a cache, in the dtype that the model is in now."""
    return _once(work, "uncached", work.inputs.input_ids, lambda: greedy(work, strategy(BASELINE)))


def forward_over(work: Work, run: Run) -> torch.Tensor | Outcome:
    """Return the logits of one forward over all tokens of a run, in the dtype of the model now."""
    return _once(work, "forward", run.sequences, lambda: one_forward(work, run))


def _once(work: Work, kind: str, ids: torch.Tensor, make: Callable[[], T]) -> T | Outcome:
    model: Any = work.loaded.model
    key = (
        kind,
        # The weights are in float32 for a while.
        model.dtype,
        model.config._attn_implementation,
        work.new_tokens,
        tuple(ids.flatten().tolist()),
        tuple(work.inputs.attention_mask.flatten().tolist()),
        tuple(ids.shape),
    )
    known = _KNOWN.setdefault(model, {})
    if key not in known:
        made = attempt(make)
        # What could not be made, for want of memory say, is tried again for the next strategy.
        if isinstance(made, Outcome):
            return made
        known[key] = made
    found: T = known[key]
    return found
