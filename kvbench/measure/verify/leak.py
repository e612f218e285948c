"""Whether generations leave something behind: caches, tensors, memory that nobody can name."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvbench.analysis.statistics import line_fit
from kvbench.caches import CacheStrategy
from kvbench.devices.registry import backend_of
from kvbench.measure.cache import cache_bytes, cache_tensors
from kvbench.measure.generate import generate
from kvbench.measure.state import ModuleState
from kvbench.measure.verify.runs import Work

__all__ = ["Leak", "find_leak", "rss_growth", "tensor_bytes"]

_CERTAINTY = 0.99
_SHARE = 0.1
_LEAST_BYTES = 64 * 1024
"""Below this growth a generation the resident set says nothing: pages come and go by the dozen."""


@dataclass(frozen=True)
class Leak:
    """What was left after some generations. All bytes are what they grew by together.

    Attributes:
        kept: cache objects that are still referenced.
        made: different cache objects that there were.
        tensor_bytes: live tensors that Python knows of.
        device_bytes: what torch has allocated on the GPU; null on the CPU.
        rss_bytes: the resident set, only where it certainly grows; null on a GPU.
        state_bytes: state that stays on the model's modules after each generation and takes the
            place of that before.
    """

    kept: int
    made: int
    tensor_bytes: int
    device_bytes: int | None
    rss_bytes: int | None
    state_bytes: int = 0

    @property
    def leaked_bytes(self) -> int:
        """The largest of the three, which count the same memory in different ways."""
        return max(self.tensor_bytes, self.device_bytes or 0, self.rss_bytes or 0)

    @property
    def where(self) -> str:
        """What it was that grew most."""
        if self.tensor_bytes == self.leaked_bytes:
            return "the tensors tracked by Python"
        if self.device_bytes == self.leaked_bytes:
            return "the GPU's memory"
        return "the resident set"

    @property
    def found(self) -> bool:
        """Whether this is a leak. One object that serves each generation is none."""
        return self.leaked_bytes > 0 or (self.kept > 0 and self.made > 1)


@dataclass(frozen=True)
class _Level:
    """Bytes in use after a generation."""

    tensors: int
    device: int | None
    rss: int | None


def find_leak(work: Work, arm: CacheStrategy, generations: int) -> Leak:
    """Generate several times in a row, after once to warm up, and see what stays.

    A cache is gone if nothing refers to it after garbage was collected. Bytes count as leaked if
    they rose in more than one generation: what is made once and kept is no leak.
    """
    _generate(work, arm)
    levels = [_level(work.loaded.device)]
    seen: list[list[weakref.ref[Any]]] = []
    size, state = 0, ModuleState()
    for _ in range(generations):
        size, state, references = _generate(work, arm)
        levels.append(_level(work.loaded.device))
        # The one object of a static cache comes again, and so does its reference.
        if not any(_are_same(references, earlier) for earlier in seen):
            seen.append(references)
    rss = [level.rss for level in levels if level.rss is not None]
    device = [level.device for level in levels if level.device is not None]
    return Leak(
        kept=sum(any(reference() is not None for reference in one) for one in seen),
        made=len(seen),
        tensor_bytes=_growth([level.tensors for level in levels]),
        device_bytes=_growth(device) if device else None,
        rss_bytes=rss_growth(rss, size) if rss else None,
        state_bytes=state.bytes,
    )


def rss_growth(levels: Sequence[int], cache_size: int) -> int:
    """Bytes that the resident set certainly grew by, over all generations; 0 if it is not certain.

    A line is fitted through the levels after each generation. It counts when the lower end of its
    slope's one-sided 99 % interval is over a tenth of a cache a generation: pages come and go, and
    a leak of caches takes a whole one each time.
    """
    if len(levels) < 3:
        return 0
    slope, margin = line_fit(range(len(levels)), levels, _CERTAINTY)
    if slope - margin <= max(_SHARE * cache_size, _LEAST_BYTES):
        return 0
    return int(slope * (len(levels) - 1))


def tensor_bytes() -> int:
    """Bytes of all tensors that Python's garbage collector knows of, each storage once."""
    sizes: dict[int, int] = {}
    for item in gc.get_objects():
        # isinstance would ask lazy modules and proxies for their class, which wakes them.
        if issubclass(type(item), torch.Tensor):
            try:
                storage = item.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
            except (NotImplementedError, RuntimeError):
                # Sparse and fake tensors have none.
                continue
    return sum(sizes.values())


def _generate(work: Work, arm: CacheStrategy) -> tuple[int, ModuleState, list[weakref.ref[Any]]]:
    """The bytes that a generation keeps, those on modules, and references that keep no cache."""
    output = generate(
        work.loaded, work.inputs, arm, work.new_tokens, clock=None, synchronise=lambda: None
    )
    state = output.state
    size = cache_bytes(output.cache) + state.bytes
    if output.cache is None:
        return size, state, []
    try:
        return size, state, [weakref.ref(output.cache)]
    except TypeError:
        # A plain tuple or list cannot be referred to weakly, its tensors can.
        return size, state, [weakref.ref(tensor) for tensor in cache_tensors(output.cache)]


def _are_same(some: list[weakref.ref[Any]], others: list[weakref.ref[Any]]) -> bool:
    # By identity: equality would ask the tensors, element by element.
    return [id(one) for one in some] == [id(other) for other in others]


def _level(device: torch.device) -> _Level:
    gc.collect()
    tensors = tensor_bytes()
    level = backend_of(device).level(device)
    return _Level(tensors, level.allocated, level.resident)


def _growth(levels: Sequence[int]) -> int:
    rises = sum(later > earlier for earlier, later in itertools.pairwise(levels))
    return max(levels[-1] - levels[0], 0) if rises > 1 else 0
