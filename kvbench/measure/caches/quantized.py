"""Quantized caches: keys and values in fewer bits, dequantized at every step."""

from __future__ import annotations

from typing import Any

from transformers import QuantizedCache

from kvbench.measure.caches.call import Call

__all__ = ["quantized"]

_THEIR_NAMES = {"nbits": "nbits", "q_group_size": "group", "residual_length": "residual"}


def quantized(call: Call) -> dict[str, Any]:
    """Return Transformers' QuantizedCache with the backend named in the settings.

    fp8 keeps one scale for each layer's keys and one for its values, fixed by the first update, so
    its quality depends on the prompt. The others quantize in groups along the positions.
    """
    settings = call.settings
    options: dict[str, Any] = {
        theirs: settings[ours] for theirs, ours in _THEIR_NAMES.items() if ours in settings
    }
    cache = QuantizedCache(str(settings["backend"]), call.config, **options)
    return {"past_key_values": cache}
