"""Predict the time of the matrix products of each step from probed times.

A decoder does not reach the rate of large square matrices: few rows do not fill a device, and a
product with a small matrix ends before the whole device is busy. So the probe times products of
several numbers of rows with matrices of several widths; values in between are interpolated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kvbench.records.rates import Product
from kvbench.theory.architecture import Architecture
from kvbench.theory.layers import Experts, Layer, Linear

__all__ = ["ProductTimes", "Used", "product_times", "used_products"]


class Used(NamedTuple):
    """A matrix of a model in each step of a generation.

    Attributes:
        linear: the matrix.
        rows: rows multiplied with it, `[steps]`; 0 where it is not used.
        many: the number of such matrices, `[steps]`: for experts, the selected ones.
    """

    linear: Linear
    rows: np.ndarray
    many: np.ndarray


class ProductTimes:
    """Times of products in one dtype, for any number of rows and any matrix.

    Args:
        products: the probed products in this dtype, for some numbers of rows and widths. Times
            between two of them are interpolated on logarithmic scales. Beyond them, the rate of the
            nearest one applies.
    """

    def __init__(self, products: Iterable[Product]) -> None:
        self._by_width: dict[int, list[Product]] = {}
        for product in sorted(products, key=lambda one: (one.width, one.rows)):
            self._by_width.setdefault(product.width, []).append(product)

    def seconds(self, linear: Linear, rows: np.ndarray) -> np.ndarray:
        """Return the seconds of a product of these rows with a matrix, `[steps]`; 0 for 0 rows."""
        # A matrix counts as the square one with the same number of weights.
        width = np.sqrt(linear.inputs * linear.outputs)
        widths = list(self._by_width)
        used = np.maximum(rows, 1e-9)
        place = float(np.interp(np.log(width), np.log(widths), np.arange(len(widths))))
        below = int(place)
        above = min(below + 1, len(widths) - 1)
        share = place - below
        logs = self._per_weight(widths[below], used)
        if share > 0:
            logs = (1 - share) * logs + share * self._per_weight(widths[above], used)
        return np.where(rows > 0, np.exp(logs) * width**2, 0.0)

    def _per_weight(self, width: int, rows: np.ndarray) -> np.ndarray:
        """Return the logarithm of the seconds per weight at a probed width, `[steps]`."""
        known = self._by_width[width]
        probed = np.log([one.rows for one in known])
        times = np.log([one.seconds / width**2 for one in known])
        found = np.interp(np.log(rows), probed, times)
        # More rows than were probed scale linearly; fewer still read the whole matrix.
        return np.asarray(found + np.maximum(np.log(rows) - probed[-1], 0.0))


def product_times(products: Iterable[Product], dtype: str) -> ProductTimes | None:
    """Return the times of products in a dtype; None if none were probed."""
    found = [product for product in products if product.dtype == dtype]
    return ProductTimes(found) if found else None


def used_products(
    architecture: Architecture, rows: np.ndarray, batch: int, prompt_rows: int, cached: bool
) -> Iterator[Used]:
    """Yield each matrix of a model with the rows multiplied with it in each step.

    Args:
        architecture: the model.
        rows: rows that a layer of the decoder sees, `[steps]`.
        batch: sequences, which is also the number of rows of logits.
        prompt_rows: rows of the prompt, which an encoder sees in the first step.
        cached: whether the keys and values of an encoder are made once.
    """
    first = np.zeros(len(rows))
    first[0] = prompt_rows
    each = first if cached else np.full(len(rows), prompt_rows)
    # Layers that are alike are looked up once.
    for layer, count in Counter(architecture.layers).items():
        many = np.full(len(rows), count)
        yield from _of_layer(layer, rows, many)
        if layer.cross is not None:
            for linear in (*layer.cross.query, layer.cross.output):
                yield Used(linear, rows, many)
            for linear in layer.cross.key_value:
                yield Used(linear, each, many)
    for layer, count in Counter(architecture.encoder).items():
        yield from _of_layer(layer, first, np.full(len(rows), count))
    one = np.ones(len(rows))
    for linear in architecture.adapters:
        yield Used(linear, rows, one)
    # T5 without a cache makes the logits of all positions; a decoder only those of the last.
    every = bool(architecture.encoder) and not cached
    yield Used(architecture.head, rows if every else np.full(len(rows), batch), one)


def _of_layer(layer: Layer, rows: np.ndarray, one: np.ndarray) -> Iterator[Used]:
    """Yield the matrices of layers that are alike; `one` is their number, `[steps]`."""
    for linear in layer.mixer.linears:
        yield Used(linear, rows, one)
    if isinstance(layer.mlp, Experts):
        mlp = layer.mlp
        chosen = mlp.count * (1 - (1 - mlp.per_token / mlp.count) ** rows)
        each = np.where(rows > 0, rows * mlp.per_token / np.maximum(chosen, 1e-9), 0.0)
        for linear in mlp.expert.linears:
            yield Used(linear, each, chosen * one)
        for part in (mlp.router, mlp.shared_gate):
            if part is not None:
                yield Used(part, rows, one)
        for linear in mlp.shared.linears if mlp.shared else ():
            yield Used(linear, rows, one)
    elif layer.mlp is not None:
        for linear in layer.mlp.linears:
            yield Used(linear, rows, one)
