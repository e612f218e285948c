"""The shared reference of all strategies of a model, made once: the uncached generation."""

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
"""Keyed by the model, to be freed with it, then by dtype, attention and what is generated."""


def uncached(work: Work) -> Run | Outcome:
    """Return the generation without a cache, in the model's current dtype."""
    return _once(work, "uncached", work.inputs.input_ids, lambda: greedy(work, strategy(BASELINE)))


def forward_over(work: Work, run: Run) -> torch.Tensor | Outcome:
    """Return the logits of one forward over all tokens of a run, in the model's current dtype."""
    return _once(work, "forward", run.sequences, lambda: one_forward(work, run))


def _once(work: Work, kind: str, ids: torch.Tensor, make: Callable[[], T]) -> T | Outcome:
    model: Any = work.loaded.model
    key = (
        kind,
        # The weights are temporarily in float32.
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
        # Do not store failures, such as out of memory: the next strategy tries again.
        if isinstance(made, Outcome):
            return made
        known[key] = made
    found: T = known[key]
    return found
