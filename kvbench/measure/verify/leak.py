"""Detect what generations leave behind: caches, tensors, unattributed memory."""

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
"""Below this growth per generation the resident set is not informative: pages come and go."""


@dataclass(frozen=True)
class Leak:
    """What remained after some generations. All byte counts are the total growth.

    Attributes:
        kept: cache objects that are still referenced.
        made: distinct cache objects that were created.
        tensor_bytes: bytes of live tensors that Python knows of.
        device_bytes: what torch has allocated on the GPU; null on the CPU.
        rss_bytes: growth of the resident set, only if it is certain; null on a GPU.
        state_bytes: state that stays on the model's modules after each generation and replaces the
            previous state.
    """

    kept: int
    made: int
    tensor_bytes: int
    device_bytes: int | None
    rss_bytes: int | None
    state_bytes: int = 0

    @property
    def leaked_bytes(self) -> int:
        """The largest of the three counts, which measure the same memory in different ways."""
        return max(self.tensor_bytes, self.device_bytes or 0, self.rss_bytes or 0)

    @property
    def where(self) -> str:
        """Which of the counts grew most."""
        if self.tensor_bytes == self.leaked_bytes:
            return "the tensors tracked by Python"
        if self.device_bytes == self.leaked_bytes:
            return "the GPU's memory"
        return "the resident set"

    @property
    def found(self) -> bool:
        """Whether this is a leak. One object that serves all generations is not."""
        return self.leaked_bytes > 0 or (self.kept > 0 and self.made > 1)


@dataclass(frozen=True)
class _Level:
    """Bytes in use after a generation."""

    tensors: int
    device: int | None
    rss: int | None


def find_leak(work: Work, arm: CacheStrategy, generations: int) -> Leak:
    """Generate several times in a row, after one warm-up, and find what remains.

    A cache is gone if nothing refers to it after garbage collection. Bytes count as leaked if they
    rose in more than one generation: what is made once and kept is not a leak.
    """
    _generate(work, arm)
    levels = [_level(work.loaded.device)]
    seen: list[list[weakref.ref[Any]]] = []
    size, state = 0, ModuleState()
    for _ in range(generations):
        size, state, references = _generate(work, arm)
        levels.append(_level(work.loaded.device))
        # The one object of a static cache is reused, and so is its reference.
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
    """Return the certain growth of the resident set over all generations; 0 if it is not certain.

    A line is fitted to the levels after each generation. It counts if the lower end of its slope's
    one-sided 99 % interval is over a tenth of a cache per generation: pages come and go, and a leak
    of caches takes a whole one each time.
    """
    if len(levels) < 3:
        return 0
    slope, margin = line_fit(range(len(levels)), levels, _CERTAINTY)
    if slope - margin <= max(_SHARE * cache_size, _LEAST_BYTES):
        return 0
    return int(slope * (len(levels) - 1))


def tensor_bytes() -> int:
    """Return the bytes of all tensors known to Python's garbage collector, each storage once."""
    sizes: dict[int, int] = {}
    for item in gc.get_objects():
        # isinstance would ask lazy modules and proxies for their class, which loads them.
        if issubclass(type(item), torch.Tensor):
            try:
                storage = item.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
            except (NotImplementedError, RuntimeError):
                # Sparse and fake tensors have no storage.
                continue
    return sum(sizes.values())


def _generate(work: Work, arm: CacheStrategy) -> tuple[int, ModuleState, list[weakref.ref[Any]]]:
    """Return a generation's bytes, those on modules, and weak references to its cache."""
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
        # A plain tuple or list has no weak references; its tensors do.
        return size, state, [weakref.ref(tensor) for tensor in cache_tensors(output.cache)]


def _are_same(some: list[weakref.ref[Any]], others: list[weakref.ref[Any]]) -> bool:
    # Compare by identity: equality would compare tensors element by element.
    return [id(one) for one in some] == [id(other) for other in others]


def _level(device: torch.device) -> _Level:
    gc.collect()
    tensors = tensor_bytes()
    level = backend_of(device).level(device)
    return _Level(tensors, level.allocated, level.resident)


def _growth(levels: Sequence[int]) -> int:
    rises = sum(later > earlier for earlier, later in itertools.pairwise(levels))
    return max(levels[-1] - levels[0], 0) if rises > 1 else 0
