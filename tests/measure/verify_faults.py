"""Faults planted in Transformers' caches, for verification to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

Fault = Callable[[pytest.MonkeyPatch], None]
States = tuple[torch.Tensor, torch.Tensor]

SLOT = 3
"""The position to drop or zero."""


def drop_a_position(patch: pytest.MonkeyPatch) -> None:
    """Make each layer lose a position when it receives the first token after the prefill."""
    update = DynamicLayer.update

    def dropping(self: Any, keys: torch.Tensor, values: torch.Tensor, *args: Any) -> States:
        if self.is_initialized and self.keys.shape[-2] == 8:
            kept = [index for index in range(8) if index != SLOT]
            self.keys, self.values = self.keys[:, :, kept], self.values[:, :, kept]
        return update(self, keys, values, *args)

    patch.setattr(DynamicLayer, "update", dropping)


def shuffle_heads(patch: pytest.MonkeyPatch) -> None:
    """Read the cached keys of one head with the values of another."""
    update = DynamicLayer.update

    def shuffling(self: Any, keys: torch.Tensor, values: torch.Tensor, *args: Any) -> States:
        all_keys, all_values = update(self, keys, values, *args)
        return (all_keys.flip(1) if keys.shape[-2] == 1 else all_keys), all_values

    patch.setattr(DynamicLayer, "update", shuffling)


def repeat_heads(patch: pytest.MonkeyPatch) -> None:
    """Keep each head twice in each layer, and return what is right."""
    update = DynamicLayer.update

    def repeating(self: Any, keys: torch.Tensor, values: torch.Tensor, *args: Any) -> States:
        if self.is_initialized and self.keys.numel():
            self.keys, self.values = self.keys[:, ::2], self.values[:, ::2]
        all_keys, all_values = update(self, keys, values, *args)
        self.keys = all_keys.repeat_interleave(2, dim=1)
        self.values = all_values.repeat_interleave(2, dim=1)
        return all_keys, all_values

    patch.setattr(DynamicLayer, "update", repeating)


def keep_a_position_too_many(patch: pytest.MonkeyPatch) -> None:
    """Make a window keep as many positions as it shows; the results stay right."""

    def update(self: Any, keys: torch.Tensor, values: torch.Tensor, *_: Any) -> States:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        window, shown = self.sliding_window, self.get_mask_sizes(keys.shape[-2])[0]
        self.cumulative_length += keys.shape[-2]
        all_keys = torch.cat([self.keys, keys], dim=-2)
        all_values = torch.cat([self.values, values], dim=-2)
        self.keys, self.values = all_keys[:, :, -window:], all_values[:, :, -window:]
        return all_keys[:, :, -shown:], all_values[:, :, -shown:]

    patch.setattr(DynamicSlidingWindowLayer, "update", update)


def zero_a_slot(patch: pytest.MonkeyPatch) -> None:
    """Zero one position of one layer from the first step after the prefill on."""
    update = Cache.update

    def zeroing(
        self: Any, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any
    ) -> States:
        if layer == 1 and keys.shape[-2] == 1:
            self.layers[layer].keys[:, :, SLOT] = 0
            self.layers[layer].values[:, :, SLOT] = 0
        return update(self, keys, values, layer, *args)

    patch.setattr(Cache, "update", zeroing)


LATE_SLOT = 70
"""A position that a check of 40 positions does not reach."""


def zero_a_late_slot(patch: pytest.MonkeyPatch) -> None:
    """Zero one late position of one layer from the step after it on."""
    update = Cache.update

    def zeroing(
        self: Any, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any
    ) -> States:
        kept = self.layers[layer] if layer < len(self.layers) else None
        is_step = layer == 1 and kept is not None and keys.shape[-2] == 1
        if is_step and kept.keys.shape[-2] > LATE_SLOT:
            kept.keys[:, :, LATE_SLOT] = 0
            kept.values[:, :, LATE_SLOT] = 0
        return update(self, keys, values, layer, *args)

    patch.setattr(Cache, "update", zeroing)


def zero_a_number(patch: pytest.MonkeyPatch) -> None:
    """Zero one of the 16 numbers of the value in one slot of one head of one layer."""
    update = Cache.update

    def zeroing(
        self: Any, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any
    ) -> States:
        if layer == 1 and keys.shape[-2] == 1:
            self.layers[layer].values[:, 0, SLOT + 4, 0] = 0
        return update(self, keys, values, layer, *args)

    patch.setattr(Cache, "update", zeroing)


def keep_references(patch: pytest.MonkeyPatch) -> None:
    """Return a list that holds every cache."""
    kept: list[Any] = []
    init = DynamicCache.__init__

    def keeping(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        kept.append(self)

    patch.setattr(DynamicCache, "__init__", keeping)


def keep_masks(patch: pytest.MonkeyPatch) -> None:
    """Return a list that holds a tensor of 1 KiB for each cache, and no cache."""
    kept: list[torch.Tensor] = []
    init = DynamicCache.__init__

    def keeping(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        kept.append(torch.zeros(256))

    patch.setattr(DynamicCache, "__init__", keeping)


def fail_with(error: Exception) -> Fault:
    """Make the cache raise when it should keep something after the prefill."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def update(self: Any, keys: torch.Tensor, values: torch.Tensor, *_: Any) -> States:
            raise error

        patch.setattr(cache_utils.Cache, "update", update)

    return plant
