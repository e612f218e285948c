"""Check the shapes of a cache against the configuration and against what it received."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvbench.caches import CacheStrategy
from kvbench.measure.verify.check_pages import describe_pages, pages_contradict, wrong_pages
from kvbench.measure.verify.expected import LayerPlan, cross_layers, decoder_layers
from kvbench.measure.verify.runs import Work
from kvbench.measure.verify.shapes import CacheShape, LayerShape, Shape

__all__ = ["contradicts_itself", "describe_shapes", "saw_what_was_handed_over", "wrong_shape"]

Keeps = Callable[[int, int | None], int]
"""Returns how many positions a layer keeps, from how many were seen and the model's window."""


def wrong_shape(work: Work, arm: CacheStrategy, steps: Sequence[CacheShape]) -> str | None:
    """Return the first thing in a generation's cache that is wrong.

    Layers, heads and windows follow from the configuration, the number of kept positions from the
    strategy.

    Args:
        work: what was generated.
        arm: the strategy of the generation.
        steps: the cache after each forward, the prefill first.

    Returns: One sentence without a period, or null if everything is right.
    """
    config = work.loaded.config
    plans = decoder_layers(config)
    cross = cross_layers(config) if work.loaded.is_encoder_decoder else ()
    for step, shape in enumerate(steps):
        seen, where = work.decoder_prompt + step, "layer"
        if shape.pages:
            wrong = wrong_pages(plans, shape.pages, work.lengths_after(step))
        else:
            wrong = _wrong_layers(
                plans, steps[0].layers, shape.layers, work.batch_size, seen, arm.positions_kept
            )
        if wrong is None:
            # All positions of the encoder exist from the start.
            wrong = _wrong_layers(
                cross, steps[0].cross, shape.cross, work.batch_size, work.inputs.tokens, _all
            )
            where = "cross-attention layer"
        if wrong is not None:
            after = f"step {step}" if step else "the prefill"
            return f"{where} {wrong[0]} after {after}: {wrong[1]}"
    return None


def saw_what_was_handed_over(steps: Sequence[CacheShape]) -> bool:
    """Return whether it is known what each layer with keys received."""
    layers = [layer for step in steps for layer in (*step.layers, *step.cross) if layer.keys]
    pages = [layer for step in steps for layer in step.pages]
    seen = [layer.handed is not None for layer in layers]
    return all(seen) and all(layer.handed is not None for layer in pages)


def contradicts_itself(work: Work, arm: CacheStrategy, steps: Sequence[CacheShape]) -> bool:
    """Return whether a cache differs from what it received: it is then wrong in any case.

    If its input was not observed, there is nothing to compare it with.

    Args:
        work: what was generated.
        arm: the strategy of the generation.
        steps: the cache after each forward, the prefill first.
    """
    if steps[0].pages:
        return any(
            pages_contradict(shape.pages, work.lengths_after(step))
            for step, shape in enumerate(steps)
        )
    own: Keeps = arm.positions_kept
    parts = [(steps[0].layers, step.layers, own) for step in steps]
    parts += [(steps[0].cross, step.cross, _all) for step in steps]
    return any(
        _is_not_what_it_was_handed(first[index] if index < len(first) else layer, layer, kept)
        for first, layers, kept in parts
        for index, layer in enumerate(layers)
    )


def _all(seen: int, _window: int | None) -> int:
    """Return all positions: cross-attention keeps the encoder's whole output."""
    return seen


def _is_not_what_it_was_handed(first: LayerShape, layer: LayerShape, keeps: Keeps) -> bool:
    if layer.states != first.states:
        return True
    handed = layer.handed
    if handed is None:
        return False
    if layer.length is not None and layer.length != handed.positions:
        return True
    if layer.keys is None and layer.values is None:
        # Packed if it reports its length, and that is right; otherwise it has lost everything.
        return not layer.length
    kept = keeps(handed.positions, layer.window)
    for found, start, of_one in (
        (layer.keys, first.keys, handed.keys),
        (layer.values, first.values, handed.values),
    ):
        length = max(start[2], kept) if layer.fixed and start is not None else kept
        if found != (*of_one[:2], length, of_one[2]):
            return True
    return False


def describe_shapes(work: Work, steps: Sequence[CacheShape]) -> str:
    """Return what was found right, in one sentence without a period."""
    plans = decoder_layers(work.loaded.config)
    if steps[-1].pages:
        return describe_pages(steps[-1].pages, len(steps))
    text = f"cache layers match the configuration ({len(plans)} layers, {len(steps)} steps)"
    final = next((layer.keys for layer in reversed(steps[-1].layers) if layer.keys), None)
    if final is not None:
        text += f", final shape {list(final)}"
    fed = work.decoder_prompt + len(steps) - 1
    windows = sorted({plan.window for plan in plans if plan.window and plan.window > fed})
    if windows:
        text += f"; windows of {', '.join(map(str, windows))} not filled"
    return text


def _wrong_layers(
    plans: Sequence[LayerPlan],
    first: Sequence[LayerShape],
    layers: Sequence[LayerShape],
    batch_size: int,
    seen: int,
    keeps: Keeps,
) -> tuple[int, str] | None:
    nothing = LayerShape(None, None, None, False, ())
    for index in range(max(len(plans), len(layers))):
        # Past the last layer of the configuration or of the cache, there is nothing.
        plan = plans[index] if index < len(plans) else LayerPlan("none")
        layer = layers[index] if index < len(layers) else nothing
        start = first[index] if index < len(first) else nothing
        wrong = _wrong_layer(plan, start, layer, batch_size, seen, keeps)
        if wrong is not None:
            return index, wrong
    return None


def _wrong_layer(
    plan: LayerPlan,
    first: LayerShape,
    layer: LayerShape,
    batch_size: int,
    seen: int,
    keeps: Keeps,
) -> str | None:
    if layer.states != first.states:
        return f"its states are {_listed(layer.states)}, they were {_listed(first.states)}"
    if plan.kind in ("state", "none"):
        return None if layer.keys is None else f"it has keys {list(layer.keys)}, expected none"
    if plan.kind == "unknown":
        return _wrong_tensors(plan, first, layer, batch_size, None)
    if layer.length is not None and layer.length != seen:
        return f"it reports {layer.length} positions seen, expected {seen}"
    return _wrong_tensors(plan, first, layer, batch_size, keeps(seen, plan.window))


def _wrong_tensors(
    plan: LayerPlan, first: LayerShape, layer: LayerShape, batch_size: int, positions: int | None
) -> str | None:
    if layer.keys is None and layer.values is None and layer.length:
        # Quantized: only the length is visible, and that was right.
        return None
    for name in ("keys", "values"):
        found = getattr(layer, name)
        if found is None or len(found) != 4:
            return f"it has no {name}" if found is None else f"{name} are {list(found)}"
        # What the configuration does not state must at least stay constant.
        start = getattr(first, name) or found
        length = found[2] if positions is None else positions
        if layer.fixed:
            length = max(start[2], length)
        expected = [batch_size, plan.kv_heads or start[1], length, plan.head_dim or start[3]]
        if list(found) != expected:
            return f"{name} are {list(found)}, expected {expected}"
    return None


def _listed(shapes: tuple[Shape, ...]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes) or "none"
