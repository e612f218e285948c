"""The loop that articles write: call the model, take the largest logit, append. No `generate`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache, GenerationMixin, StaticCache

from kvbench.errors import UserError
from kvbench.measure.caches import Call, Driven, Driver, Look
from kvbench.measure.clock import TokenClock

__all__ = ["Loop"]

_ONLY_FOR_GENERATE = {"disable_compile"}
"""Options of `generate` that mean nothing to a loop that never compiles."""


class Loop:
    """The second driver of a generation: the same forwards as `generate`, and nothing around them.

    Args:
        call: the generation.
        made: what the strategy's body has made for `generate`.
        use_cache: whether there is a cache at all.

    Raises:
        UserError: the model's steps need more than ids, mask and positions, or the strategy more
            than a cache object.
    """

    def __init__(self, call: Call, made: dict[str, Any] | Driver, *, use_cache: bool) -> None:
        if isinstance(made, dict):
            lacks = _lacks(call, made.keys() - {"past_key_values"} - _ONLY_FOR_GENERATE)
        else:
            made.close()
            made, lacks = {}, "this strategy runs its own generation loop"
        if lacks is not None:
            raise UserError(f"loop: {lacks}; use --driver generate.", kind="driver_unmet")
        self._call = call
        self._model: Any = call.loaded.model
        self._cache = made.get("past_key_values")
        if use_cache and self._cache is None:
            # As `generate` makes it.
            self._cache = DynamicCache(config=call.config)
        self._takes = inspect.signature(self._model.forward).parameters
        self._hides_nothing = bool(call.inputs.attention_mask.all()) and not (
            # It would take the empty slots of a static cache for keys.
            isinstance(self._cache, StaticCache) and "flash" in call.loaded.attention
        )

    @torch.no_grad()
    def run(
        self,
        *,
        clock: TokenClock | None = None,
        keep_logits: bool = False,
        along: torch.Tensor | None = None,
        look: Look | None = None,
    ) -> Driven:
        """Generate, as `Driver.run` says."""
        ids = self._call.inputs.input_ids  # [batch, tokens]
        mask = self._call.inputs.attention_mask  # the same, 0 where there is padding
        positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)  # padding does not count
        fed = ids
        kept: list[torch.Tensor] = []
        if clock is not None:
            clock.put(ids)
        for step in range(self._call.new_tokens):
            logits = self._forward(fed, mask, positions[:, -fed.shape[1] :])  # [batch, vocabulary]
            new = logits.argmax(1, keepdim=True) if along is None else along[:, step : step + 1]
            ids = torch.cat([ids, new], dim=1)
            mask = torch.cat([mask, torch.ones_like(new)], dim=1)
            positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
            # A cache holds all but the new token; without one, everything is computed again.
            fed = ids if self._cache is None else new
            if keep_logits:
                kept.append(logits.float().cpu())
            if look is not None:
                look(logits)
            if clock is not None:
                # The copy waits for the device, as that of `generate` does.
                clock.put(new.cpu())
        if clock is not None:
            clock.end()
        return Driven(ids, self._cache, torch.stack(kept, dim=1) if keep_logits else None)

    def close(self) -> None:
        """Do nothing: there is nothing to put away."""

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits of the last position, from one call of the model."""
        options = {"position_ids": positions, "logits_to_keep": 1}
        output = self._model(
            input_ids=ids,
            # As `generate` does: attention is faster where it need not ask what is padding.
            attention_mask=None if self._hides_nothing else mask,
            past_key_values=self._cache,
            use_cache=self._cache is not None,
            **{name: value for name, value in options.items() if name in self._takes},
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _lacks(call: Call, options: set[str]) -> str | None:
    """Return why the loop would not do the work of `generate`, None if it does."""
    if call.loaded.is_encoder_decoder:
        return "it does not take encoder-decoder models"
    model: Any = type(call.loaded.model)
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return "this model keeps its state in something other than past_key_values"
    if not model._supports_default_dynamic_cache():
        return "this model makes a cache of its own"
    if model.prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation:
        return "this model prepares the inputs of each step itself"
    if options:
        return f"this strategy sets {', '.join(sorted(options))} of generate"
    return None
