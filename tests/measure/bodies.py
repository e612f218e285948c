"""Bodies of cache strategies that only tests have."""

from __future__ import annotations

from typing import Any

from transformers import CompileConfig

from kvbench.measure.caches import Call
from kvbench.measure.caches.static import make_static


def transformers_static(call: Call) -> dict[str, Any]:
    """The static cache that `generate` makes itself."""
    return {"cache_implementation": "static", "disable_compile": True}


def compiled_anywhere(call: Call) -> dict[str, Any]:
    """A static cache whose decoding steps are compiled on a CPU too, by dynamo alone."""
    config = CompileConfig(backend="eager", mode=None)
    # Transformers' own tests have no other way either.
    config._compile_all_devices = True
    return {"past_key_values": make_static(call), "compile_config": config}
