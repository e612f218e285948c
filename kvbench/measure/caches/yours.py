"""User-supplied caches: a factory from an installed package or a file, called for each cache."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from operator import attrgetter
from types import ModuleType
from typing import Any

from transformers import Cache, EncoderDecoderCache

from kvbench.caches.yours import FACTORY, SOURCE, digest_of, read_file
from kvbench.errors import UserError
from kvbench.measure.caches.call import Call

__all__ = ["make"]


def make(call: Call) -> dict[str, Any]:
    """Return a new cache from the factory that the settings name.

    The factory receives the given parameters, and those of `config` (the decoder's), `model`,
    `batch_size` and `positions` (how many will be fed) that its signature names. An exception that
    it raises becomes the sample's error.

    Raises:
        UserError: the file has changed, or the factory does not return a new Transformers cache.
    """
    settings = dict(call.settings)
    source, name = str(settings.pop(SOURCE)), str(settings.pop(FACTORY))
    factory: Callable[..., Any] = attrgetter(name)(_module(source))
    offered = {
        "config": call.config,
        "model": call.loaded.model,
        "batch_size": call.inputs.input_ids.shape[0],
        "positions": call.positions,
    }
    given = {key: _value(str(text)) for key, text in settings.items()}
    cache = factory(**{key: offered[key] for key in offered if key in _names(factory)} | given)
    if not isinstance(cache, Cache):
        raise UserError(
            f"{source}:{name} returned {type(cache).__name__}, not a Transformers cache.",
            kind="not_a_cache",
        )
    if call.loaded.is_encoder_decoder and not isinstance(cache, EncoderDecoderCache):
        # Models such as T5 accept any cache, but compute something different with it.
        raise UserError(
            f"{source}:{name} returned {type(cache).__name__}; an encoder-decoder model needs an "
            "EncoderDecoderCache.",
            kind="not_a_cache",
        )
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", ())
    if any(layer.get_seq_length() > 0 for layer in layers if hasattr(layer, "get_seq_length")):
        raise UserError(
            f"{source}:{name} returned a cache that is not empty; it must create a new one each "
            "time.",
            kind="cache_reused",
        )
    # As for kvbench's own eager caches: `generate` would compile some kinds by itself on a GPU.
    return {"past_key_values": cache, "disable_compile": True}


def _names(factory: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        # Some factories written in C have no signature.
        return ()


def _value(text: str) -> int | float | bool | str:
    """Return the number or boolean that a text means, or the text itself."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@functools.cache
def _module(source: str) -> ModuleType:
    """Return an installed module, or the module of a file with a digest."""
    if "/" not in source:
        return importlib.import_module(source)
    path, _, digest = source.partition("#")
    code = read_file(path)
    if digest_of(code) != digest:
        raise UserError(
            f"{path} has changed since the run was created.",
            kind="file_changed",
        )
    # Run the text that was read: the import system might use compiled code next to the file.
    name = f"kvbench_cache_{digest}"
    module = ModuleType(name)
    module.__file__ = path
    # Dataclasses and similar code look their module up here.
    sys.modules[name] = module
    exec(compile(code, path, "exec"), module.__dict__)
    return module
