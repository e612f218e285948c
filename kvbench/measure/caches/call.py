"""A call: what a body of a cache strategy is given for one generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig

from kvbench.caches.entry import Settings
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = ["Body", "Call"]


@dataclass(frozen=True, slots=True)
class Call:
    """One generation that is about to begin.

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
        """The configuration that a cache object is made of: the decoder's, of text."""
        return self.loaded.model.config.get_text_config(decoder=True)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, padding included."""
        return self.inputs.tokens

    @property
    def positions(self) -> int:
        """Positions that the decoder is fed: the last new token never is."""
        start = 1 if self.loaded.is_encoder_decoder else self.prompt_tokens
        return start + self.new_tokens - 1


Body = Callable[[Call], dict[str, Any]]
