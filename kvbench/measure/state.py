"""Find state that a model keeps on its own modules instead of in a cache object."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kvbench.measure.cache import cache_tensors

__all__ = ["ModuleState", "ModuleWatch"]

_STATE = ("state", "cache", "conv", "ssm", "recurrent", "mem", "past", "kv", "key", "value")
_TABLES = ("cos", "sin", "rot", "freq", "pos", "mask", "bias")
"""Parts of attribute names: what is kept between steps, and tables that are rebuilt when a sequence
is longer than all before.
"""

_OWN = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class ModuleState:
    """What a generation leaves on the modules of a model.

    Attributes:
        bytes: exact size of the tensors that are known to be state.
        unknown: attributes that may be state and are not counted, such as `Block.last`.
    """

    bytes: int = 0
    unknown: tuple[str, ...] = ()


class ModuleWatch:
    """Record the modules' tensors before a generation, to find new ones afterwards.

    RecurrentGemma keeps its recurrent and convolution states in plain attributes. Each step
    recreates them, which distinguishes them from what is made once and kept, such as a table of
    positions.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        # Weak references: an id alone may belong to another tensor by now.
        self._before = {
            id(tensor): (weakref.ref(tensor), _version(tensor)) for _, tensor in _held(model)
        }

    def state(self, cache: Any, batch_size: int) -> ModuleState:
        """Return the tensors that were made or changed since, and are not in the cache object."""
        seen = {id(tensor) for tensor in cache_tensors(cache)}
        size = 0
        unknown: dict[str, None] = {}
        for name, tensor in _held(self._model):
            if id(tensor) in seen or not self._is_new(tensor):
                continue
            seen.add(id(tensor))
            attribute = name.rpartition(".")[2].lower()
            if tensor.shape[0] != batch_size or any(part in attribute for part in _TABLES):
                continue
            if any(part in attribute for part in _STATE):
                size += tensor.numel() * tensor.element_size()
            else:
                unknown[name] = None
        return ModuleState(size, tuple(unknown))

    def _is_new(self, tensor: torch.Tensor) -> bool:
        reference, version = self._before.get(id(tensor), (None, 0))
        return reference is None or reference() is not tensor or version != _version(tensor)


def _held(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Return the floating-point tensors in plain attributes of modules, by class and attribute."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name in _OWN or isinstance(value, (bool, int, float, str, type(None))):
                continue
            for tensor in cache_tensors(value):
                if tensor.is_floating_point() and not isinstance(tensor, torch.nn.Parameter):
                    yield f"{type(module).__name__}.{name}", tensor


def _version(tensor: torch.Tensor) -> int:
    # Tensors made in inference mode do not count their changes.
    return 0 if tensor.is_inference() else tensor._version
