"""Quantized caches: keys and values in fewer bits, dequantized at every step."""

from __future__ import annotations

from typing import Any

from transformers import QuantizedCache

from kvbench.measure.caches.call import Call

__all__ = ["quantized"]


def quantized(call: Call) -> dict[str, Any]:
    """Return Transformers' QuantizedCache with the backend that the settings name.

    fp8 keeps one scale for each layer's keys and one for its values, fixed by the first update:
    how well it does depends on the prompt.
    """
    return {"past_key_values": QuantizedCache(str(call.settings["backend"]), call.config)}
