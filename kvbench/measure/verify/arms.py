"""Generate with and without the cache in one dtype, with one forward as the reference."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvbench.caches import CacheStrategy
from kvbench.devices.faults import is_device_fault
from kvbench.measure.failures import classify
from kvbench.measure.verify.attempt import Outcome, attempt
from kvbench.measure.verify.compare import UNKNOWN, Distance, distance
from kvbench.measure.verify.far import Far, look_far
from kvbench.measure.verify.float32 import in_float32
from kvbench.measure.verify.reference import forward_over, uncached
from kvbench.measure.verify.runs import Run, Work, forced, greedy, watching
from kvbench.measure.verify.shapes import (
    CacheShape,
    cache_of,
    noting_what_is_handed_over,
    read_shape,
)

__all__ = ["Arms", "Exact", "run_arms", "run_exact"]


@dataclass(frozen=True)
class Arms:
    """Both generations of one batch in one dtype, and one forward over the same tokens.

    Attributes:
        off: the uncached generation; the logits follow its tokens.
        cached: the cached generation.
        along: logits of the cached path forced along the tokens of `off`, `[batch, new,
            vocabulary]`, or why there are none.
        full: logits of one forward over the same tokens, of the same shape, or why there are none.
        shapes: the cache after each forward of `cached`.
    """

    off: Run
    cached: Run
    along: torch.Tensor | Outcome
    full: torch.Tensor | Outcome
    shapes: tuple[CacheShape, ...]

    @functools.cached_property
    def error(self) -> Distance:
        """The distance of the cached steps from one forward; NaN if there is nothing to compare."""
        if isinstance(self.along, Outcome) or isinstance(self.full, Outcome):
            return UNKNOWN
        return distance(self.along, self.full, self.full)

    @functools.cached_property
    def floor(self) -> Distance:
        """The distance of the uncached steps from one forward: the model's own rounding.

        NaN if there is no forward to compare with.
        """
        if isinstance(self.full, Outcome):
            return UNKNOWN
        return distance(self.off.logits, self.full, self.full)


@dataclass(frozen=True)
class Exact:
    """A batch in float32.

    Attributes:
        arms: both generations, along their own tokens.
        full_of_timed: logits of one forward over the tokens of the timed dtype, or why there are
            none; null if that dtype is float32.
    """

    arms: Arms
    full_of_timed: torch.Tensor | Outcome | None = None


def run_arms(work: Work, arm: CacheStrategy) -> Arms | Outcome:
    """Generate without the cache and with it, in the model's current dtype.

    The comparisons are independent: if one cannot be made, the others still can. The uncached parts
    are the same for all strategies and made once.
    """
    off = uncached(work)
    if isinstance(off, Outcome):
        return off
    shapes: list[CacheShape] = []
    cached = attempt(lambda: _watched(work, arm, shapes), blame_cache=True)
    if isinstance(cached, Outcome):
        return cached
    along: torch.Tensor | Outcome = cached.logits
    if not torch.equal(off.new_ids, cached.new_ids):
        along = attempt(lambda: forced(work, arm, off.new_ids).logits)
    full = forward_over(work, off)
    return Arms(off, cached, along, full, tuple(shapes))


def _watched(work: Work, arm: CacheStrategy, shapes: list[CacheShape]) -> Run:
    """Return the cached generation; `shapes` receives the cache after each of its forwards."""
    with noting_what_is_handed_over() as handed:

        def look(output: Any, given: dict[str, Any]) -> None:
            cache = cache_of(output, given)
            if cache is not None:
                shapes.append(read_shape(cache, handed))

        with watching(work.loaded.model, look):
            return greedy(work, arm)


def run_exact(
    works: Sequence[Work],
    arm: CacheStrategy,
    timed: Sequence[Arms | Outcome],
    far: Work | None = None,
) -> tuple[list[Exact | Outcome], Far | Outcome | None]:
    """Do the same in float32 for each batch; the model is in the timed dtype again afterwards.

    This includes the check of a long generation, if requested and if memory suffices.
    """
    loaded = works[0].loaded
    if loaded.key.dtype == "float32":
        exact = [arms if isinstance(arms, Outcome) else Exact(arms) for arms in timed]
        return exact, None if far is None else look_far(far, arm)
    try:
        return _run_in_float32(works, arm, timed, far)
    except RuntimeError as error:
        # Otherwise only the conversion back can raise, and then nothing can be measured with the
        # model. A failed device is reported: its rows follow anyway.
        if not is_device_fault(error):
            raise
        return [Outcome("inconclusive", classify(error).error)] * len(works), None


def _run_in_float32(
    works: Sequence[Work],
    arm: CacheStrategy,
    timed: Sequence[Arms | Outcome],
    far: Work | None,
) -> tuple[list[Exact | Outcome], Far | Outcome | None]:
    loaded = works[0].loaded
    dtype = getattr(torch, loaded.key.dtype)
    with contextlib.ExitStack() as stack:
        entered = attempt(lambda: stack.enter_context(in_float32(loaded.model, dtype)))
        if isinstance(entered, Outcome):
            return [entered] * len(works), None
        exact = [_run_exact(work, arm, arms) for work, arms in zip(works, timed, strict=True)]
        return exact, None if far is None else look_far(far, arm)


def _run_exact(work: Work, arm: CacheStrategy, timed: Arms | Outcome) -> Exact | Outcome:
    full = timed if isinstance(timed, Outcome) else forward_over(work, timed.off)
    arms = run_arms(work, arm)
    return arms if isinstance(arms, Outcome) else Exact(arms, full)
