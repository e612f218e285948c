"""Continuous batching with each step recorded as a CUDA graph and replayed."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

from kvbench.measure.caches.call import Call, Driven, Look
from kvbench.measure.caches.paged import ContinuousBatching, eager
from kvbench.measure.clock import TokenClock

__all__ = ["Replayed", "graphs"]


def graphs(call: Call) -> Replayed:
    """Return the driver that records steps as CUDA graphs and replays them."""
    return Replayed(call, use_cuda_graph=True)


class Replayed(ContinuousBatching):
    """A continuous batch whose steps run no Python code, so nothing can look into them.

    If logits are wanted, the tokens still come from the graphs. The logits come from eager steps
    along these tokens, in a second pool of the same size.
    """

    def __init__(self, call: Call, **options: Any) -> None:
        self._open = True
        with _unobserved(call.loaded.model):
            super().__init__(call, **options)

    def run(
        self,
        *,
        clock: TokenClock | None = None,
        keep_logits: bool = False,
        along: torch.Tensor | None = None,
        look: Look | None = None,
    ) -> Driven:
        """Generate, as described in `Driver.run`."""
        if not keep_logits and along is None and look is None:
            return super().run(clock=clock)
        if along is None:
            with _unobserved(self._call.loaded.model):
                along = super().run(clock=clock).sequences[:, self._call.prompt_tokens :]
        self.close()
        with contextlib.closing(eager(self._call)) as steps:
            return steps.run(keep_logits=keep_logits, along=along, look=look)

    def close(self) -> None:
        """Stop the thread and free the pool, unless that is done."""
        if self._open:
            self._open = False
            super().close()


@contextlib.contextmanager
def _unobserved(model: torch.nn.Module) -> Iterator[None]:
    """Take the hooks off a model while the block runs: recording a graph would run them twice."""
    hooks = model._forward_hooks
    model._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        model._forward_hooks = hooks
