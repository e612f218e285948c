"""The layer interface of Transformers, implemented once for the hand-written caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

__all__ = ["HandLayer", "cache_of", "written"]


class HandLayer(CacheLayerMixin):
    """A layer that counts the positions it receives. A strategy adds `append`.

    A model calls `update` once per layer and forward with the keys and values of the new positions,
    each `[batch, kv_heads, new, head_dim]`, and attends to the result, each `[batch, kv_heads, all,
    head_dim]`. Before that it asks for the mask sizes.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        # Declared again here to spare each strategy the typing.
        super().__init_subclass__(**more)  # type: ignore[no-untyped-call]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = 0
        self.is_initialized = True

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new keys and values, and return all that the new queries attend to."""
        raise NotImplementedError

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Call `append`, and count the positions."""
        found = self.append(key_states, value_states)
        self.seen += key_states.shape[-2]
        return found

    def get_seq_length(self) -> int:
        """Return how many positions were received, forgotten ones too: the next one's number."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many positions `update` returns, and the number of the first."""
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the first `append` creates what a layer needs."""


def cache_of(make_layer: Callable[[], HandLayer]) -> dict[str, Any]:
    """Return the option of `generate` for a new cache, which calls `make_layer` for each layer."""
    layer: Any = make_layer
    return {"past_key_values": Cache(layer_class_to_replicate=layer)}


def written(filled: torch.Tensor, room: int, new: torch.Tensor) -> torch.Tensor:
    """Write new positions into a buffer, and return its filled part, now longer.

    Args:
        filled: the part of the buffer that is in use, `[..., filled, head_dim]`; a view.
        room: positions of the whole buffer.
        new: `[..., new, head_dim]`.
    """
    end = filled.shape[-2] + new.shape[-2]
    whole = filled.as_strided((*filled.shape[:-2], room, filled.shape[-1]), filled.stride())
    whole[..., filled.shape[-2] : end, :] = new
    return whole[..., :end, :]
