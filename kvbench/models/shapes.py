"""Read a model's cache from a model with shapes but no data, for families that theory cannot read.

The model is built on torch's `meta` device, which allocates nothing, and its own cache is filled at
two lengths. What differs between them is what a position adds; the rest is a state. A third length,
past the largest window, must agree with the first two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.fx.experimental import _config
from transformers import AutoConfig, DynamicCache, PretrainedConfig

from kvbench.errors import UserError
from kvbench.models.config import check_generates
from kvbench.models.load import auto_class
from kvbench.models.positions import position_limit
from kvbench.text import clip
from kvbench.theory.layers import Kept
from kvbench.theory.shapes import Shapes

__all__ = ["read_shapes"]

_BATCH = 2
_SHORT, _LONG, _FAR = 4, 5, 40
"""Positions of the decoder: two that fill a convolution and fit into the windows of small models,
and one that is moved past the largest window."""

_PROMPT = 7
"""Positions of an encoder, which do not affect the first length."""

_ATTEMPTS = (("eager", True), (None, False), ("eager", False))
"""Attention implementation, and whether a mask is given. Some models read the values of a mask,
which do not exist; others fail without one.
"""

_RESULTS = ("past_key_values", "cache_params", "state")
"""Names that models use for the cache in their output."""


def read_shapes(keys: Mapping[str, Any]) -> Shapes:
    """Build the model of a config.json without data, and read its cache.

    It is built in bfloat16: a tensor that is still in float32 is so in any dtype.

    Raises:
        UserError: Transformers does not know the model, it cannot run without data, or its cache
            does not grow by the same amount with each position.
    """
    name = clip(str(keys.get("model_type")))
    config, whole = _part_that_generates(name, _read(name, keys))
    first: Exception | None = None
    for attention, mask in _ATTEMPTS:
        try:
            model = _build(name, config, attention)
            # As if no element were zero: the choice of experts does not change the cache.
            with _config.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
                layers = _layers(name, model, mask)
        except UserError:
            raise
        except Exception as error:
            # A model's own code may raise anything if tensors have no values.
            first = first or error
            continue
        return Shapes(
            model_type=config.model_type,
            layers=layers,
            parameters=int(model.num_parameters()),
            encoder_decoder=bool(config.is_encoder_decoder),
            max_positions=position_limit(config).positions,
            float32_weights=_weights_in(model, "_keep_in_fp32_modules"),
            weights_unknown=_weights_unknown(name, config, model, whole),
        )
    raise UserError(
        f"model_type: no formulas for '{name}', and the model does not run without data: "
        f"{_line(first)}",
        kind="unreadable_family",
    ) from first


def _read(name: str, keys: Mapping[str, Any]) -> PretrainedConfig:
    rest = {key: value for key, value in keys.items() if key != "model_type"}
    try:
        config: PretrainedConfig = AutoConfig.for_model(str(keys.get("model_type")), **rest)
    except Exception as error:
        # Each family checks its fields in its own way.
        raise UserError(
            f"model_type: Transformers cannot read the configuration of '{name}': {_line(error)}",
            kind="unreadable_family",
        ) from error
    return config


def _part_that_generates(name: str, config: PretrainedConfig) -> tuple[PretrainedConfig, bool]:
    """Return the part of a configuration that generates text, and whether that is all of it."""
    text = config.get_text_config(decoder=True)
    try:
        check_generates(name, config)
    except UserError:
        if text is config:
            raise
        check_generates(name, text)
        return text, False
    return config, not hasattr(config, "text_config")


def _build(name: str, config: PretrainedConfig, attention: str | None) -> Any:
    try:
        with torch.device("meta"):
            model = auto_class(config).from_config(
                config, dtype=torch.bfloat16, attn_implementation=attention
            )
            # Some releases do not tie weights on meta.
            model.tie_weights()
    except Exception as error:
        # A missing or wrong field fails wherever the model's code happens to use it.
        raise UserError(
            f"model_type: no formulas for '{name}', and Transformers cannot build it from this "
            f"configuration: {_line(error)}",
            kind="unreadable_family",
        ) from error
    return model.eval()


def _weights_unknown(name: str, config: PretrainedConfig, model: Any, whole: bool) -> str | None:
    if not whole:
        return f"{name} has parts other than text"
    if getattr(config, "quantization_config", None):
        return "they are quantized"
    if _weights_in(model, "_keep_in_fp32_modules_strict"):
        return "some of them stay in float32 for every dtype"
    return None


def _weights_in(model: Any, attribute: str) -> int:
    """Return the number of weights in the modules that an attribute of the model lists."""
    parts = set(getattr(model, attribute, None) or ())
    return sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if parts.intersection(name.split("."))
    )


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of a cache.

    Attributes:
        layer: its layer; null for one outside of layers.
        name: the attribute that holds it.
        cross: whether it belongs to the positions of an encoder.
        shape: sequences first.
        wide: whether it is float32 in a bfloat16 model.
        window: positions that a query of its layer sees.
    """

    layer: int | None
    name: str
    cross: bool
    shape: tuple[int, ...]
    wide: bool
    window: int | None

    @property
    def numbers(self) -> int:
        """The numbers of one sequence."""
        return math.prod(self.shape) // _BATCH


_Cache = dict[tuple[str, ...], _Tensor]


def _layers(name: str, model: Any, mask: bool) -> tuple[Kept, ...]:
    short, long = (_run(model, positions, mask) for positions in (_SHORT, _LONG))
    if not short:
        raise UserError(
            f"model_type: kvbench cannot read the cache of '{name}'.", kind="unreadable_family"
        )
    if short.keys() != long.keys() or any(one.shape[0] != _BATCH for one in short.values()):
        _refuse(name)
    slopes = {path: long[path].numbers - one.numbers for path, one in short.items()}
    positions = _FAR + max(one.window or 0 for one in short.values())
    for path, one in _run(model, positions, mask).items():
        # A model that skips empty parts may have more of them now.
        if path not in short:
            _refuse(name)
        fed = positions if one.window is None else min(positions, one.window - 1)
        if one.numbers != short[path].numbers + slopes[path] * (fed - _SHORT):
            _refuse(name)
    found: dict[float, Kept] = {}
    for path, one in short.items():
        place = math.inf if one.layer is None else one.layer
        found[place] = _with(found.get(place, Kept()), one, slopes[path])
    return tuple(found[place] for place in sorted(found))


def _with(known: Kept, one: _Tensor, slope: int) -> Kept:
    """Return what a layer keeps, with one more of its tensors."""
    changes: dict[str, Any] = {"window": known.window or one.window}
    if one.cross:
        changes["cross"] = known.cross + one.numbers // _PROMPT
        return dataclasses.replace(known, **changes)
    state = one.numbers - slope * _SHORT
    wide = "_float32" if one.wide else ""
    if state:
        changes["state" + wide] = getattr(known, "state" + wide) + state
    heads, size = (one.shape[1], one.shape[-1]) if len(one.shape) == 4 else (0, 0)
    if slope and not wide and heads * size == slope and one.name in ("keys", "values"):
        dimension = "key_dim" if one.name == "keys" else "value_dim"
        if known.kv_heads in (0, heads):
            return dataclasses.replace(known, kv_heads=heads, **{dimension: size}, **changes)
    changes["other" + wide] = getattr(known, "other" + wide) + slope
    return dataclasses.replace(known, **changes)


def _refuse(name: str) -> NoReturn:
    raise UserError(
        f"model_type: no formulas for '{name}', and its cache does not grow by the same amount "
        "with each position.",
        kind="unreadable_family",
    )


@torch.no_grad()
def _run(model: Any, positions: int, mask: bool) -> _Cache:
    """Feed a model this many positions, `[2, positions]`, and return the tensors of its cache."""
    ids = torch.zeros(_BATCH, positions, dtype=torch.long, device="meta")
    # Held until the end, so no new tensor reuses the id of an old one.
    before = {id(tensor): tensor for _, tensor in _on_modules(model)}
    if model.config.is_encoder_decoder:
        prompt = ids.new_zeros(_BATCH, _PROMPT)
        given: dict[str, Any] = {"input_ids": prompt, "decoder_input_ids": ids}
    else:
        prompt = ids
        given = {"input_ids": ids}
        if model._supports_default_dynamic_cache():
            # As in `generate`: not every model returns the cache that it makes itself.
            text = model.config.get_text_config(decoder=True)
            given["past_key_values"] = DynamicCache(config=text)
    if mask:
        given["attention_mask"] = torch.ones_like(prompt)
    output = model(**given, use_cache=True)
    returned = (output[name] for name in _RESULTS if output.get(name) is not None)
    cache = next(returned, given.get("past_key_values"))
    found = dict(_tensors(cache, (), None, None))
    seen = {id(tensor) for tensor, _ in found.values()}
    described = {path: one for path, (_, one) in found.items()}
    for path, tensor in _on_modules(model):
        # RecurrentGemma keeps its state in attributes of its modules.
        if id(tensor) not in before and id(tensor) not in seen and tensor.shape[0] == _BATCH:
            described[path] = _described(path, tensor, None, None)
    return described


def _tensors(
    item: Any, path: tuple[str, ...], layer: int | None, window: int | None
) -> Iterator[tuple[tuple[str, ...], tuple[torch.Tensor, _Tensor]]]:
    """Return the tensors in a cache object, by their place in it."""
    if isinstance(item, torch.Tensor):
        if item.ndim >= 2:
            yield path, (item, _described(path, item, layer, window))
    elif isinstance(item, Mapping):
        for name, value in item.items():
            yield from _tensors(value, (*path, str(name)), layer, window)
    elif isinstance(item, (list, tuple)):
        for place, value in enumerate(item):
            # A list with a name has an entry for each layer; that of RWKV has one for each kind.
            inner = place if layer is None and path else layer
            yield from _tensors(value, (*path, str(place)), inner, window)
    elif ("Cache" in type(item).__name__ or "Layer" in type(item).__name__) and not isinstance(
        item, torch.nn.Module
    ):
        window = getattr(item, "sliding_window", None) or window
        for name, value in vars(item).items():
            yield from _tensors(value, (*path, name), layer, window)


def _described(
    path: tuple[str, ...], tensor: torch.Tensor, layer: int | None, window: int | None
) -> _Tensor:
    return _Tensor(
        layer=layer,
        name=path[-1] if path else "",
        cross="cross_attention_cache" in path,
        shape=tuple(tensor.shape),
        wide=tensor.dtype == torch.float32,
        window=window,
    )


def _on_modules(model: Any) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """Return the floating-point tensors in plain attributes of modules."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim >= 2:
                yield (name, attribute), value


def _line(error: Exception | None) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{clip(text, 160)}{'' if text.endswith('.') else '.'}"
