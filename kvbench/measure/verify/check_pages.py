"""Check the pages of a continuous batch against the configuration and against what they received.

A page holds a fixed number of positions of one sequence and layer. Each sequence has a table of
pages that grows with it, and no padding.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvbench.measure.verify.expected import LayerPlan
from kvbench.measure.verify.shapes import PagedLayer

__all__ = ["describe_pages", "pages_contradict", "wrong_pages"]


def wrong_pages(
    plans: Sequence[LayerPlan], layers: Sequence[PagedLayer], lengths: Sequence[int]
) -> tuple[int, str] | None:
    """Return the first layer whose pages are wrong after a step, and what is wrong with it.

    Args:
        plans: the layers that the configuration describes.
        layers: the pages after the step.
        lengths: the positions fed to each sequence so far, padding excluded.
    """
    if len(layers) != len(plans):
        few = min(len(layers), len(plans))
        return few, f"the cache has {len(layers)} layers, expected {len(plans)}"
    for index, (plan, layer) in enumerate(zip(plans, layers, strict=True)):
        wrong = _wrong_layer(plan, layer, lengths)
        if wrong is not None:
            return index, wrong
    return None


def pages_contradict(layers: Sequence[PagedLayer], lengths: Sequence[int]) -> bool:
    """Return whether pages differ from what they received, whatever the configuration says."""
    return any(
        _wrong_layer(_as_handed(layer), layer, lengths) is not None
        for layer in layers
        if layer.handed is not None
    )


def describe_pages(layers: Sequence[PagedLayer], steps: int) -> str:
    """Return what was found right, in one sentence without a period."""
    counts = ", ".join(str(len(table)) for table in layers[0].tables)
    return (
        f"pages match the configuration ({len(layers)} layers, {steps} steps), final pages of "
        f"{layers[0].page} positions per sequence: {counts}"
    )


def _as_handed(layer: PagedLayer) -> LayerPlan:
    """Return the plan of a layer from its own window and from what attention passed to it."""
    assert layer.handed is not None
    _, heads, size = layer.handed.keys
    return LayerPlan("window" if layer.window else "full", layer.window, heads, size)


def _wrong_layer(plan: LayerPlan, layer: PagedLayer, lengths: Sequence[int]) -> str | None:
    if plan.kind == "none":
        # Its attention reads another layer's pages. The pool has room for it all the same.
        return None
    slot = (plan.kv_heads or layer.slot[0], plan.head_dim or layer.slot[1])
    if layer.slot != slot:
        return f"a position in a page is {list(layer.slot)}, expected {list(slot)}"
    # The pages of a window are a ring, which also holds the position that the next one replaces.
    kept = [length if plan.window is None else min(length, plan.window) for length in lengths]
    pages = [-(-positions // layer.page) for positions in kept]
    found = [len(table) for table in layer.tables]
    if found != pages:
        return f"sequences have {_listed(found)} pages, expected {_listed(pages)}"
    if len({page for table in layer.tables for page in table}) != sum(pages):
        return "two sequences share a page"
    if layer.handed is not None and layer.handed.positions != sum(lengths):
        return f"it received {layer.handed.positions} positions, expected {sum(lengths)}"
    return None


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts)) or "no"
