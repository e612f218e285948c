"""Lower bounds: the least time that a device's bandwidth and arithmetic allow, and derived values.

A step takes at least the longer of two times: reading its bytes, and doing its arithmetic. Bytes
are the weights, read once a step (a tied embedding once, an untied one not at all: a lookup reads
rows), and the cache as it was before the step. Activations and the cache's own bookkeeping are not
counted: a lower bound must not exceed a measured time.

Source: Williams, Waterman and Patterson, Roofline (2009); for decoding Pope et al., Efficiently
Scaling Transformer Inference (2022), section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from kvbench.device_kinds import kind_of
from kvbench.dtypes import dtype_bytes
from kvbench.errors import UserError
from kvbench.records.rates import Rates
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes, check_work, uses_cache
from kvbench.theory.flops import step_flops
from kvbench.theory.layers import Attention, Experts, Layer
from kvbench.theory.products import ProductTimes, Used, product_times, used_products
from kvbench.theory.weights import parameters

__all__ = ["Floor", "Limit", "floor", "pays_from", "stepwise"]

Limit = Literal["bandwidth", "arithmetic", "overhead"]

_OVERHEAD_FROM = 3.0
"""A run that takes more than this many times its lower bound is limited by something besides the
device.
"""

_GAIN = 1.05
"""A cache pays if it is expected to be faster by more than this."""


@dataclass(frozen=True)
class Floor:
    """The lower bounds of one generation, step by step; step 0 is the prefill.

    Attributes:
        moved: bytes of weights and cache that each step reads, `[new tokens]`.
        flops: FLOPs of each step, `[new tokens]`.
        bytes_per_s: the bandwidth used.
        flops_per_s: the arithmetic rate used.
        beyond: seconds that each step is expected to take beyond its lower bound, `[new tokens]`:
            the overhead of layers, slower products of a decoder's sizes, and copies of the cache.
            Null if not probed.
        launch_s: seconds that a step's launches, and the Python around them, take on a device that
            works during launches. Null on others, and if not probed.
        kernels: seconds that each step's work on the device takes, `[new tokens]`, at the rates of
            products of a decoder's sizes, with copies of the cache; null if not probed.
        link: seconds that each step's bytes take from host memory, `[new tokens]`, while the device
            works; null if nothing is kept there.
    """

    moved: np.ndarray
    flops: np.ndarray
    bytes_per_s: float
    flops_per_s: float
    beyond: np.ndarray | None = None
    launch_s: float | None = None
    kernels: np.ndarray | None = None
    link: np.ndarray | None = None

    @cached_property
    def expected(self) -> np.ndarray:
        """The expected seconds of each step, `[new tokens]`; at least its lower bound."""
        return self.steps if self.beyond is None else self.steps + self.beyond

    @property
    def by_bandwidth(self) -> bool:
        """Whether reading bytes, not arithmetic, dominates the lower bound."""
        by_bytes = self.moved / self.bytes_per_s >= self.flops / self.flops_per_s
        return bool(self.steps[by_bytes].sum() * 2 >= self.seconds)

    @property
    def expected_s(self) -> float:
        """The expected seconds of the generation."""
        return float(self.expected.sum())

    @cached_property
    def steps(self) -> np.ndarray:
        """The least seconds of each step, `[new tokens]`."""
        least = np.maximum(self.moved / self.bytes_per_s, self.flops / self.flops_per_s)
        return least if self.link is None else np.maximum(least, self.link)

    @property
    def seconds(self) -> float:
        """The least seconds of the generation."""
        return float(self.steps.sum())

    @property
    def launch_bound(self) -> bool:
        """Whether the device is expected to wait for launches most of the time."""
        if self.launch_s is None:
            return False
        waits = self.launch_s > (self.steps if self.kernels is None else self.kernels)
        return bool(self.expected[waits].sum() * 2 > self.expected_s)

    def mbu(self, seconds: float) -> float:
        """Return the fraction of the bandwidth that a run of this duration used (MBU)."""
        return float(self.moved.sum() / self.bytes_per_s / seconds)

    def mfu(self, seconds: float) -> float:
        """Return the fraction of the arithmetic that a run of this duration used (MFU)."""
        return float(self.flops.sum() / self.flops_per_s / seconds)

    def limited_by(self, seconds: float) -> Limit:
        """Return what limits a run of this duration.

        `overhead` if it takes more than three times its lower bound; else what dominates the bound.
        """
        if seconds > _OVERHEAD_FROM * self.seconds:
            return "overhead"
        return "bandwidth" if self.by_bandwidth else "arithmetic"


def floor(
    architecture: Architecture,
    strategy: str,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    dtype: str,
    rates: Rates,
) -> Floor:
    """Return the lower bound of one generation on a device.

    A mixture of experts reads the experts that these tokens select on average if all are equally
    likely: `count * (1 - (1 - per_token / count)^tokens)`.

    Raises:
        UserError: theory cannot count the architecture's weights or FLOPs, the strategy or the
            dtype is unknown to it, a size is less than 1, or the device's rate in this dtype is
            unknown.
    """
    if dtype not in rates.flops_per_s:
        raise UserError(
            f"{rates.hardware}: its {dtype} arithmetic rate is unknown.", kind="rate_unknown"
        )
    check_work(batch=batch, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    # This refuses a model whose weights cannot be counted.
    parameters(architecture)
    cached = uses_cache(strategy)
    flops = _flops(architecture, strategy, batch, prompt_tokens, new_tokens)
    start = 1 if architecture.encoder else prompt_tokens
    rows = np.full(new_tokens, batch) if cached else batch * (start + np.arange(new_tokens))
    rows[0] = batch * start
    weights = dtype_bytes(dtype) * _weights(architecture, rows)
    if cached:
        # The keys and values of the encoder are made once and kept.
        weights[1:] -= dtype_bytes(dtype) * sum(
            linear.parameters
            for layer in architecture.layers
            if layer.cross
            for linear in layer.cross.key_value
        )
    moved, copied = weights.copy(), np.zeros(new_tokens)
    moved[0] += dtype_bytes(dtype) * sum(layer.parameters for layer in architecture.encoder)
    if cached:
        kept = _kept(architecture, strategy, batch, prompt_tokens, new_tokens, dtype)
        moved += kept
        copied = _copied(architecture, kept, batch * prompt_tokens, dtype)
    least = Floor(moved, flops, rates.read_bytes_per_s, rates.flops_per_s[dtype])
    times = product_times(rates.products, dtype)
    kernels = None
    if times is not None:
        used = used_products(architecture, rows, batch, batch * prompt_tokens, cached)
        kernels = _kernels(used, times, flops, moved - weights, least)
    # Bytes read, and as many written; none if copying was not probed.
    copies = 2 * copied / (rates.copy_bytes_per_s or np.inf)
    launches = _launches(architecture, new_tokens, rates)
    return _expecting(least, launches, kernels, copies, _packing(rows, weights, rates), rates)


def _expecting(
    least: Floor,
    launches: np.ndarray | None,
    kernels: np.ndarray | None,
    copies: np.ndarray,
    packing: np.ndarray,
    rates: Rates,
) -> Floor:
    """Return lower bounds with what a step is expected to take beyond them; see `Floor`."""
    if kernels is not None:
        kernels = kernels + copies
    if launches is None:
        return replace(least, kernels=kernels)
    if kind_of(rates.device).queues_work:
        # Layers launch while the device still works on earlier ones: take the longer of the two.
        work = least.steps + copies if kernels is None else kernels
        beyond = np.maximum(launches, work) - least.steps
        return replace(least, beyond=beyond, launch_s=float(launches[-1]), kernels=kernels)
    if kernels is not None:
        return replace(least, beyond=launches + kernels - least.steps, kernels=kernels)
    return replace(least, beyond=launches + copies + packing)


def pays_from(off: Floor, on: Floor, overhead_s: float = 0.0) -> int | None:
    """Return the number of new tokens from which the cache is expected to be 5 % faster.

    Both bounds are for the longest length. A step takes its expected time, and at least
    `overhead_s`. None if the number is beyond that length.
    """
    times = [np.cumsum(np.maximum(arm.expected, overhead_s)) for arm in (off, on)]
    pays = times[0] > _GAIN * times[1]
    if not pays[-1]:
        return None
    # The first length after the last one at which it does not pay.
    return int(len(pays) - np.argmin(pays[::-1]) + 1) if not pays.all() else 1


def stepwise(value: Callable[[int], int], count: int) -> np.ndarray:
    """Return a function of the step at all steps, `[count]`, interpolated between 64 of them.

    Its value at step 0 is that at step 1.
    """
    return _piecewise(value, map(int, np.linspace(1, count, 64)), count)


def _weights(architecture: Architecture, rows: np.ndarray) -> np.ndarray:
    """Return the weights that a forward over this many rows reads, `[steps]`."""
    outside = (
        architecture.head.parameters
        + sum(linear.parameters for linear in architecture.adapters)
        + architecture.other_parameters
    )
    total = np.full(len(rows), float(outside))
    for layer in architecture.layers:
        total += layer.parameters - _idle_experts(layer, rows)
    return total


def _launches(architecture: Architecture, new_tokens: int, rates: Rates) -> np.ndarray | None:
    """Return the seconds of layers without arithmetic, `[new tokens]`; None if not probed."""
    if rates.layer_s is None:
        return None
    launches = np.full(new_tokens, len(architecture.layers) * rates.layer_s)
    launches[0] += len(architecture.encoder) * rates.layer_s
    return launches


def _packing(rows: np.ndarray, weights: np.ndarray, rates: Rates) -> np.ndarray:
    """Return the seconds that a CPU packs matrices, `[new tokens]`, if only that was probed."""
    return np.where(rows > 1, (rates.few_rows_s_per_byte or 0.0) * weights, 0.0)


def _kernels(
    used: Iterable[Used], times: ProductTimes, flops: np.ndarray, cache: np.ndarray, least: Floor
) -> np.ndarray:
    """Return the seconds of each step's work on the device, `[new tokens]`; at least its bound.

    Products with weights take the probed times. The remaining arithmetic is attention's, and the
    remaining bytes are the `cache`: both at the device's best rates.
    """
    seconds, counted = np.zeros(len(flops)), np.zeros(len(flops))
    for linear, rows, many in used:
        seconds += many * times.seconds(linear, rows)
        counted += many * rows * linear.flops
    rest = np.maximum(flops - counted, 0.0) / least.flops_per_s
    attention = np.maximum(rest, cache / least.bytes_per_s)
    return np.asarray(np.maximum(seconds + attention, least.steps))


def _idle_experts(layer: Layer, rows: np.ndarray) -> np.ndarray | float:
    """Return the weights of the experts that none of these rows selects, on average."""
    mlp = layer.mlp
    if not isinstance(mlp, Experts):
        return 0.0
    idle = mlp.count * (1 - mlp.per_token / mlp.count) ** rows
    return np.asarray(idle * mlp.expert.parameters)


def _flops(
    architecture: Architecture, strategy: str, batch: int, prompt_tokens: int, new_tokens: int
) -> np.ndarray:
    """Return the FLOPs of each step, extrapolated: thousands of `step_flops` would take seconds."""

    def flops(step: int) -> int:
        return step_flops(architecture, strategy, batch, prompt_tokens, step)

    if uses_cache(strategy):
        rest = _piecewise(flops, _windows(architecture, prompt_tokens), new_tokens)
    else:
        # Without a cache, a step is a polynomial of degree two in its number.
        steps = np.arange(new_tokens, dtype=float)
        first, second, third = flops(1), flops(2), flops(3)
        bend = third - 2 * second + first
        rest = first + (steps - 1) * (second - first) + (steps - 1) * (steps - 2) / 2 * bend
    rest[0] = flops(0)
    return rest


def _kept(
    architecture: Architecture,
    strategy: str,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    dtype: str,
) -> np.ndarray:
    """Return the bytes of the cache before each step, `[new tokens]`; none before the first."""

    def kept(step: int) -> int:
        return cache_bytes(architecture, strategy, batch, prompt_tokens, step, dtype)

    found = _piecewise(kept, _windows(architecture, prompt_tokens), new_tokens)
    found[0] = 0
    return found


def _copied(
    architecture: Architecture, kept: np.ndarray, prompt_rows: int, dtype: str
) -> np.ndarray:
    """Return the bytes of the cache that each step copies to append to them, `[new tokens]`.

    Transformers' DynamicCache concatenates: it copies all of a layer but what came from an encoder.
    """
    cross = sum(layer.cross.kept for layer in architecture.layers if layer.cross)
    return np.asarray(np.maximum(kept - prompt_rows * cross * dtype_bytes(dtype), 0.0))


def _windows(architecture: Architecture, prompt_tokens: int) -> set[int]:
    """Return the steps at which a window fills up."""
    start = 1 if architecture.encoder else prompt_tokens
    mixers = [layer.mixer for layer in architecture.layers]
    windows = {mixer.window for mixer in mixers if isinstance(mixer, Attention) and mixer.window}
    return {window - start + shift for window in windows for shift in (-1, 0, 1)}


def _piecewise(value: Callable[[int], int], bends: Iterable[int], count: int) -> np.ndarray:
    """Return a piecewise linear function of the step from 1 on, at all steps `[count]`."""
    last = max(count - 1, 1)
    knots = sorted({1, last, *(bend for bend in bends if 1 < bend < last)})
    return np.interp(np.arange(count), knots, [float(value(knot)) for knot in knots])
