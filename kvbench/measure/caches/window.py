"""Caches of the last positions, optionally with the first ones; older keys and values are lost."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kvbench.measure.caches.call import Call

__all__ = ["WindowLayer", "window"]

States = tuple[torch.Tensor, torch.Tensor]


def window(call: Call) -> dict[str, Any]:
    """Return a cache whose layers keep the last positions, and the first ones as sinks.

    Layers with a window of their own are left unchanged.
    """
    size, sink = int(call.settings["size"]), int(call.settings.get("sink", 0))
    padding = call.inputs.attention_mask.shape[1] - call.inputs.attention_mask.sum(1)
    most = int(padding.max())
    cache = DynamicCache(config=call.config)
    cache.layers = [
        # Exclude subclasses: they have a window, or a state next to the keys.
        WindowLayer(size, sink, padding, most) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return {"past_key_values": cache}


class WindowLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of the first `sink` and the last `size - 1` positions of each sequence.

    A step attends to these and to its own position, `sink + size` in total. The prompt is read in
    one pass that sees all of it; older positions are dropped afterwards.

    Keys keep the rotation of their original position, and positions keep counting. StreamingLLM
    instead rotates keys by their place in the cache.

    While there are fewer real positions than slots, a padded sequence keeps its padding, which the
    mask hides; its first positions are the first real ones. The mask treats the slots as the last
    positions and hides those that are padding; an older kept position is as real as the one whose
    slot it has.

    Args:
        size: recent positions that a step sees, its own included.
        sink: first positions that a step sees.
        padding: left padding of each sequence, `[batch]`.
        most_padding: the largest padding, passed as a number so that no step waits for the device.
    """

    is_croppable = False

    def __init__(self, size: int, sink: int, padding: torch.Tensor, most_padding: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = sink + size - 1
        self.sink = sink
        self.cumulative_length = 0
        self._padding = padding
        self._most_padding = most_padding

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any) -> States:
        """Return the keys and values that this step attends to, then drop one position.

        Args:
            key_states: of the new positions, `[batch, kv_heads, new, head_dim]`.
            value_states: the same.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        assert self.keys is not None and self.values is not None
        keys = torch.cat([self.keys, key_states], dim=-2)
        values = torch.cat([self.values, value_states], dim=-2)
        self.keys, self.values = self._kept(keys), self._kept(values)
        return keys, values

    def _kept(self, states: torch.Tensor) -> torch.Tensor:
        length = states.shape[-2]
        extra = length - self.slots
        if extra <= 0:
            return states
        if not self.sink:
            return states[:, :, extra:]
        last = self.sink + extra
        # Padded slots still in front of the row with the most padding.
        if self._most_padding <= self.cumulative_length - length:
            return torch.cat([states[:, :, : self.sink], states[:, :, last:]], dim=-2)
        first = (self._padding - (self.cumulative_length - length)).clamp(0, extra)
        slots = torch.arange(self.slots, device=states.device).expand(len(first), -1)
        # [batch, slots]: the first real ones, then the last ones.
        kept = torch.where(slots < self.sink, slots + first[:, None], slots + extra)
        return states.take_along_dim(kept[:, None, :, None], dim=-2)

    def get_seq_length(self) -> int:
        """Return how many positions were fed, which is the number of the next one."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many positions a step attends to, and the number of the first."""
        kept = min(self.cumulative_length, self.slots)
        return kept + query_length, self.cumulative_length - kept

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: dropped positions cannot come back.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("the positions that cropping needs have already left the window")
