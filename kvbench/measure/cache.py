"""Read the cache object after a run: its exact size and its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from kvbench.device_kinds import kind_of

__all__ = [
    "allocated_bytes",
    "cache_bytes",
    "cache_class",
    "cache_layers",
    "cache_tensors",
    "disk_bytes",
]


def cache_tensors(cache: Any) -> Iterator[torch.Tensor]:
    """Return all tensors of keys, values and states in a cache object, each once.

    Bookkeeping scalars, such as a window's size kept as a tensor, are left out.
    """
    seen: set[int] = set()
    # Only walk into the library's own objects: a reference to the model or to its configuration
    # must not count as cache.
    queue = [cache]
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            parts = _parts(item)
            queue.extend(parts)
            if item.ndim >= 2 and not parts:
                yield item
        elif isinstance(item, dict):
            queue.extend(item.values())
        elif isinstance(item, (list, tuple)):
            queue.extend(item)
        elif _belongs_to_cache(item):
            queue.extend(vars(item).values())


def _parts(tensor: Any) -> list[torch.Tensor]:
    """Return the tensors that hold the bytes of a packed tensor, whose shape is the logical one."""
    if not is_traceable_wrapper_subclass(tensor):
        return []
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def _belongs_to_cache(item: Any) -> bool:
    name = type(item).__name__
    return ("Cache" in name or "Layer" in name) and not isinstance(item, torch.nn.Module)


def cache_bytes(cache: Any) -> int:
    """Return the exact bytes of the tensors in a cache object; 0 for None.

    A cache that holds more than a step attends to reports the attended bytes itself.
    """
    said: int | None = getattr(cache, "kv_cache_bytes", None)
    if said is not None:
        return said
    return sum(tensor.numel() * tensor.element_size() for tensor in cache_tensors(cache))


def allocated_bytes(cache: Any, *, on_host: bool = False) -> int:
    """Return the bytes of the storages behind a cache's tensors, each once; 0 for None.

    Files are not memory and are left out; see `disk_bytes`.

    Args:
        cache: the cache object.
        on_host: count only those in host memory.
    """
    on_disk = {tensor.untyped_storage().data_ptr() for tensor in _on_disk(cache)}
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in cache_tensors(cache)
        if not on_host or kind_of(str(tensor.device)).is_host
    }
    return sum(size for place, size in storages.items() if place not in on_disk)


def disk_bytes(cache: Any) -> int | None:
    """Return the bytes of the files behind a cache's tensors; None if the cache has no files."""
    if not any(hasattr(layer, "on_disk") for layer in getattr(cache, "layers", ())):
        return None
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _on_disk(cache)
    }
    return sum(storages.values())


def _on_disk(cache: Any) -> list[torch.Tensor]:
    """Return the tensors in files: those that a layer lists in `on_disk`."""
    layers = getattr(cache, "layers", ())
    return [tensor for layer in layers for tensor in getattr(layer, "on_disk", ())]


def cache_class(cache: Any) -> str | None:
    """Return the cache class that was actually used; None without a cache."""
    return None if cache is None else type(cache).__name__


def cache_layers(cache: Any) -> str | None:
    """Return the layer classes with counts, such as `DynamicLayer x12`; None without a cache."""
    if cache is None:
        return None
    names = ("self_attention_cache", "cross_attention_cache")
    caches = [getattr(cache, name) for name in names if hasattr(cache, name)] or [cache]
    counts = Counter(type(layer).__name__ for one in caches for layer in getattr(one, "layers", ()))
    return ", ".join(f"{name} x{count}" for name, count in sorted(counts.items())) or None
