"""Inspect a generation with and without a cache, step by step; see `kvbench inspect`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kvbench.caches import BASELINE, CacheStrategy, strategy
from kvbench.dtypes import dtype_bytes
from kvbench.errors import UserError
from kvbench.measure.cache import allocated_bytes, cache_bytes
from kvbench.measure.count import count_flops
from kvbench.measure.generate import generate
from kvbench.measure.observers import Seen, Watch, watching
from kvbench.measure.provenance import first_numbers, key_positions
from kvbench.measure.verify.attempt import Outcome, attempt
from kvbench.measure.verify.expected import decoder_layers
from kvbench.measure.verify.shapes import CacheShape, LayerShape
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs
from kvbench.plan.case import Case
from kvbench.records.inspection import Arm, CacheLayers, Inspection, Step
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes as theory_bytes
from kvbench.theory.flops import step_flops

__all__ = ["inspect"]

Decode = Callable[[Sequence[int]], tuple[str, ...] | None]


def inspect(
    loaded: LoadedModel, inputs: Inputs, case: Case, layer: int, decode: Decode
) -> Inspection:
    """Run a sweep's generation with and without the cache, and record each step.

    A second generation of each strategy counts FLOPs with eager attention, since torch's counter
    cannot see into all other implementations.

    Args:
        loaded: the model.
        inputs: prompt ids and mask, `[batch, prompt tokens]`.
        case: the cache strategy and the number of new tokens.
        layer: the layer whose queries, keys and values are shown, from 0.
        decode: returns the texts of new token ids.

    Raises:
        UserError: the model has no such layer.
    """
    layers = len(decoder_layers(loaded.config))
    if not 0 <= layer < layers:
        raise UserError(
            f"layer: {layer} is out of range; {case.model} has layers 0 to {layers - 1}.",
            kind="no_such_layer",
            layer=layer,
        )
    work = _Work(loaded, inputs, case.max_new_tokens, layer, decode)
    off, off_watch, off_doubt = _run(work, strategy(BASELINE))
    cached, cached_watch, doubt = _run(work, strategy(case.cache), off_watch)
    same = off.token_ids == cached.token_ids and bool(inputs.attention_mask.all())
    return Inspection(
        **(asdict(case.model_key) | {"attention": loaded.attention}),
        dtype_bytes=dtype_bytes(case.dtype),
        prompt=case.prompt.label,
        prompt_ids=tuple(map(tuple, inputs.input_ids.tolist())),
        first_positions=off.steps[0].positions,
        layer=layer,
        layers=layers,
        off=off,
        cached=cached,
        largest_difference=_difference(off_watch, cached_watch) if same else None,
        notes=(*_notes(loaded, layer, cached_watch), *dict.fromkeys((*off_doubt, *doubt))),
        prompt_texts=decode(inputs.input_ids[0].tolist()),
    )


@dataclass(frozen=True)
class _Work:
    """What both generations share."""

    loaded: LoadedModel
    inputs: Inputs
    new_tokens: int
    layer: int
    decode: Decode


def _run(
    work: _Work, strategy: CacheStrategy, off: Watch | None = None
) -> tuple[Arm, Watch, tuple[str, ...]]:
    """Return one generation with its observations, and what could not be counted.

    `off` is what the generation without a cache showed, None for that one itself.
    """
    what = (work.loaded, work.inputs, strategy, work.new_tokens)
    with watching(work.loaded.model, work.layer) as watch:
        generation = generate(*what, clock=None, synchronise=lambda: None)
    if len(watch.steps) != work.new_tokens:
        raise RuntimeError(f"{len(watch.steps)} forward passes for {work.new_tokens} new tokens")
    pooled: tuple[str, ...] = ()
    if generation.cache is not None and all(seen.cache is None for seen in watch.steps):
        pooled = (_look_into_pool(watch, generation.cache, *what),)
    # A row per step.
    tokens = list(zip(*generation.new_ids.tolist(), strict=True))
    # The plain form may need more memory than the model has.
    counted = attempt(lambda: count_flops(*what))
    doubt: tuple[str, ...] = ()
    if isinstance(counted, Outcome):
        doubt, counted = (f"FLOPs could not be counted: {counted.detail}",), None
    theory = _theory(*what)
    positions = key_positions(watch.steps, (off or watch).steps)
    steps = tuple(
        Step(
            **_shapes(seen, strategy.use_cache),
            # The counter does not see what a driver does in a thread of its own.
            flops_counted=(counted[i] or None) if counted else None,
            flops_theory=theory[i] if theory else None,
            token_ids=tokens[i],
            texts=work.decode(tokens[i]),
            key_positions=positions[i],
            key_numbers=first_numbers(seen.keys),
        )
        for i, seen in enumerate(watch.steps)
    )
    return Arm(cache=strategy.name, steps=steps), watch, (*pooled, *doubt)


def _look_into_pool(
    watch: Watch,
    cache: Any,
    loaded: LoadedModel,
    inputs: Inputs,
    strategy: CacheStrategy,
    new_tokens: int,
) -> str:
    """Complete what forwards that return no cache did not show, and return a note about it.

    The attention of such a driver reads its pool itself: hooks see only what it is handed.
    """
    for seen in watch.steps:
        seen.handed, seen.attended = seen.handed or seen.attended, None
        seen.keys = seen.made = None
    watch.last = None
    watch.steps[-1].cache_bytes = cache_bytes(cache)
    try:
        known = Architecture.from_config(loaded.config.to_dict())
        sizes = (inputs.input_ids.shape[0], inputs.tokens)
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        for number, seen in enumerate(watch.steps[:-1], 1):
            seen.cache_bytes = theory_bytes(known, strategy.name, *sizes, number, dtype)
    except UserError:
        pass
    pages = [getattr(cache, name, None) for name in ("used_pages", "pages", "page_size")]
    what = "{} of {} pages of {} positions".format(*pages) if None not in pages else "its pool"
    return (
        f"{strategy.name} keeps all layers in one pool of {allocated_bytes(cache):,} "
        "bytes. Its attention reads the pool directly, so the keys and values attended to are not "
        f"visible. At the end it uses {what}. Cache bytes before the last step are from the "
        "configuration."
    )


def _shapes(seen: Seen, use_cache: bool) -> dict[str, Any]:
    # Without a cache there is nothing to attend to except this forward's own output.
    made = seen.handed if use_cache else seen.attended
    return {
        "input_ids": seen.input_ids,
        "query": seen.query,
        "made_keys": made and made[0],
        "made_values": made and made[1],
        "keys": seen.attended and seen.attended[0],
        "values": seen.attended and seen.attended[1],
        "cache": _alike(seen.cache),
        "cache_bytes": seen.cache_bytes,
        "kept": seen.kept,
    }


def _alike(cache: CacheShape | None) -> tuple[CacheLayers, ...]:
    """Return the layers of a cache grouped by shape, without those that keep nothing."""
    if cache is None:
        return ()
    kinds = Counter(
        (layer.keys, layer.values, layer.states, cross)
        for layers, cross in ((cache.layers, False), (cache.cross, True))
        for layer in layers
    )
    return tuple(
        CacheLayers(count=count, keys=keys, values=values, states=states, cross=cross)
        for (keys, values, states, cross), count in kinds.items()
        if keys or values or states
    )


def _difference(off: Watch, cached: Watch) -> float | None:
    """Return the largest difference of the last keys and values, relative to their RMS."""
    if off.last is None or cached.last is None:
        return None
    worst = 0.0
    for full, kept in zip(off.last, cached.last, strict=True):
        # A layer with a window shows only the last positions.
        positions = kept.shape[-2]
        if positions > full.shape[-2]:
            return None
        full = full[..., -positions:, :].float()
        if full.shape != kept.shape:
            return None
        size = full.square().mean().sqrt()
        worst = max(worst, float((full - kept.float()).abs().max() / size))
    return worst if math.isfinite(worst) else None


def _theory(
    loaded: LoadedModel, inputs: Inputs, arm: CacheStrategy, new_tokens: int
) -> list[int] | None:
    """Return the FLOPs of each step from the configuration; None if theory cannot read it."""
    try:
        known = Architecture.from_config(loaded.config.to_dict())
        batch = inputs.input_ids.shape[0]
        return [
            step_flops(known, arm.name, batch, inputs.tokens, step) for step in range(new_tokens)
        ]
    except UserError:
        return None


def _notes(loaded: LoadedModel, layer: int, cached: Watch) -> Iterator[str]:
    """Return notes on the shapes, one sentence each."""
    if loaded.is_encoder_decoder:
        yield (
            "The encoder reads the prompt once, in step 1. The table shows the decoder, which "
            "begins with one start position."
        )
    last = cached.steps[-1]
    cache = last.cache or CacheShape(())
    if cache.unreadable:
        yield f"The cache is a {cache.unreadable}; kvbench cannot read its layers."
    nothing = LayerShape(None, None, None, False, ())
    kept = cache.layers[layer] if layer < len(cache.layers) else nothing
    if last.query is None and kept.states and kept.keys is None:
        yield (f"Layer {layer} has no keys and values: it keeps a state of constant size instead.")
    elif last.query is None:
        yield (
            f"Layer {layer} does not use Transformers' attention interface, so its queries and the "
            "keys and values they attend to are not visible."
        )
    elif last.handed is None and kept.keys is None:
        yield (
            f"Layer {layer} stores nothing in the cache: it attends to the keys and values of "
            "another layer."
        )
    elif last.handed is not None and last.attended is not None:
        yield from _latent(layer, last.handed, last.attended)
    yield from _windows(loaded)


def _latent(layer: int, handed: Sequence[Any], attended: Sequence[Any]) -> Iterator[str]:
    # Compare heads and sizes: the number of positions differs in any case.
    if [one[1::2] for one in handed] != [one[1::2] for one in attended]:
        yield (
            f"Layer {layer} caches latent vectors (latent attention) and computes the keys and "
            "values of all positions from them at each step."
        )


def _windows(loaded: LoadedModel) -> Iterator[str]:
    plans = decoder_layers(loaded.config)
    windows = Counter(plan.window for plan in plans if plan.window is not None)
    for size, count in windows.items():
        yield (
            f"Layers with a sliding window of {size} positions: {count} of {len(plans)}; each "
            f"keeps the last {size - 1}."
        )
