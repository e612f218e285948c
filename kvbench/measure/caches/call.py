"""A call: the input of a cache strategy's body for one generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PretrainedConfig

from kvbench.caches.kept import Settings
from kvbench.measure.clock import TokenClock
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = ["Body", "Call", "Driven", "Driver", "Look"]


@dataclass(frozen=True, slots=True)
class Call:
    """One generation that is about to start.

    Attributes:
        loaded: the model.
        inputs: the prompt, `[batch, prompt tokens]`, padded.
        new_tokens: per sequence.
        settings: values of the strategy's parameters.
    """

    loaded: LoadedModel
    inputs: Inputs
    new_tokens: int
    settings: Settings = field(default_factory=dict)

    @property
    def config(self) -> PretrainedConfig:
        """The configuration that a cache object is built from: the decoder's, for text."""
        return self.loaded.model.config.get_text_config(decoder=True)

    @property
    def prompt_tokens(self) -> int:
        """The length of the prompt, padding included."""
        return self.inputs.tokens

    @property
    def positions(self) -> int:
        """The positions fed to the decoder: the last new token is never fed."""
        start = 1 if self.loaded.is_encoder_decoder else self.prompt_tokens
        return start + self.new_tokens - 1


Look = Callable[[torch.Tensor], None]
"""Receives the logits of each step, `[batch, vocabulary]`."""


@dataclass(frozen=True, slots=True)
class Driven:
    """The output of a driver.

    Attributes:
        sequences: the decoder's tokens, prompt included, `[batch, prompt + new]`.
        cache: the object that held the keys and values; None without a cache.
        logits: float32, before any processor, `[batch, new, vocabulary]`; null if not requested.
    """

    sequences: torch.Tensor
    cache: Any
    logits: torch.Tensor | None = None


class Driver(Protocol):
    """Runs one prepared generation."""

    def run(
        self,
        *,
        clock: TokenClock | None = None,
        keep_logits: bool = False,
        along: torch.Tensor | None = None,
        look: Look | None = None,
    ) -> Driven:
        """Generate; this is the timed part.

        Args:
            clock: stamps each token.
            keep_logits: return the logits of each step.
            along: new tokens to force, whatever the logits say, `[batch, new]`.
            look: receives the logits of each step instead.
        """
        ...

    def close(self) -> None:
        """Clean up what was prepared; not timed."""
        ...


Body = Callable[[Call], "dict[str, Any] | Driver"]
"""Returns keyword arguments of `generate`, or the driver that replaces it."""
