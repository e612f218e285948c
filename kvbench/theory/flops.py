"""Compute the floating-point operations of a generation, with and without a cache, in closed form.

A multiply-add counts as 2. The count covers what torch's FlopCounterMode sees with Transformers'
eager attention: all matrix products. Queries attend to all keys, including masked ones; norms,
rotations, softmax and embeddings are not counted. A test compares with the counter.

Decoders compute one row of logits at each step, T5 without a cache one for each position.
"""

from __future__ import annotations

from kvbench.errors import UserError
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import check_work, uses_cache
from kvbench.theory.layers import Attention, Layer, Linear

__all__ = ["generation_flops", "kv_projection_flops", "step_flops"]


def step_flops(
    architecture: Architecture, strategy_name: str, batch: int, prompt_tokens: int, step: int
) -> int:
    """Return the FLOPs of the forward that makes the new token number `step`; 0 is the prefill.

    With `T` positions so far, `T = prompt_tokens + step`, and for each of `batch` sequences:
    without a cache `T * (all matrices) + T^2 * (attention)`, with one `(all matrices) + T *
    (attention)`, where a window has `min(T, window)` instead; both add one row of logits. Attention
    to one key costs a query `2 * heads * (key_dim + value_dim)`. Latent attention recomputes the
    keys and values of all `T` positions in both.

    Raises:
        UserError: the architecture has parts that theory cannot count, the strategy is unknown to
            it, or a size is too small.
    """
    _check(architecture, batch=batch, prompt_tokens=prompt_tokens, steps=step + 1)
    if step and uses_cache(strategy_name):
        return batch * _cached(
            architecture, prompt_tokens, _start(architecture, prompt_tokens) + step, 1
        )
    before = _encoder(architecture, prompt_tokens) if step == 0 else 0
    return batch * (before + _whole(architecture, prompt_tokens, step, 1))


def generation_flops(
    architecture: Architecture, strategy_name: str, batch: int, prompt_tokens: int, new_tokens: int
) -> int:
    """Return the FLOPs of a whole generation, the sum of `step_flops` over all steps.

    Without a cache it grows as `n^2` in the matrices and `n^3` in attention, with one as `n` and
    `n^2`. The sums of first and second powers are in closed form.

    Raises:
        UserError: as for `step_flops`.
    """
    _check(architecture, batch=batch, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    encoder = _encoder(architecture, prompt_tokens)
    if not uses_cache(strategy_name):
        return batch * (encoder + _whole(architecture, prompt_tokens, 0, new_tokens))
    prefill = _whole(architecture, prompt_tokens, 0, 1)
    first = _start(architecture, prompt_tokens) + 1
    decode = _cached(architecture, prompt_tokens, first, new_tokens - 1)
    return batch * (encoder + prefill + decode)


def kv_projection_flops(architecture: Architecture, batch: int, positions: int) -> int:
    """Return the FLOPs of making the keys and values of these positions once, in all layers.

    `2 * batch * positions * hidden * 2 * kv_heads * head_dim` per layer: what the cache saves at
    each step for each position, and what generation without a cache repeats. Latent attention makes
    its vector.

    Raises:
        UserError: the architecture has parts that theory cannot count, or a size less than 1.
    """
    _check(architecture, batch=batch, positions=positions)
    mixers = [layer.mixer for layer in architecture.layers]
    linears = [one for mixer in mixers if isinstance(mixer, Attention) for one in mixer.key_value]
    return batch * positions * _flops(*linears)


def _whole(architecture: Architecture, prompt: int, step: int, count: int) -> int:
    """Return the FLOPs of `count` forwards over all positions, starting at this step."""
    first = _start(architecture, prompt) + step
    length, square = _sum(first, count), _sum_of_squares(first, count)
    rows = length if architecture.encoder else count
    total = _flops(*architecture.adapters) * length + architecture.head.flops * rows
    for layer in architecture.layers:
        expand, pair = _per_key(layer)
        total += (_per_row(layer) + expand) * length + pair * square
        if layer.cross:
            total += _flops(*layer.cross.query, layer.cross.output) * length
            total += count * prompt * _flops(*layer.cross.key_value)
            total += length * prompt * _pair(layer.cross)
    return total


def _cached(architecture: Architecture, prompt: int, first: int, count: int) -> int:
    """Return the FLOPs of `count` forwards over one position each, starting at position `first`."""
    total = count * (_flops(*architecture.adapters) + architecture.head.flops)
    for layer in architecture.layers:
        expand, pair = _per_key(layer)
        total += count * _per_row(layer) + (expand + pair) * _keys(layer, first, count)
        if layer.cross:
            row = _flops(*layer.cross.query, layer.cross.output)
            total += count * (row + prompt * _pair(layer.cross))
    return total


def _encoder(architecture: Architecture, prompt: int) -> int:
    """Return the FLOPs of the encoder's one forward over the prompt."""
    return sum(
        _per_row(layer) * prompt + _per_key(layer)[1] * prompt**2 for layer in architecture.encoder
    )


def _start(architecture: Architecture, prompt: int) -> int:
    """Return the positions of the first forward of the decoder."""
    return 1 if architecture.encoder else prompt


def _per_row(layer: Layer) -> int:
    """Return the cost of one position by itself, without cross-attention."""
    return _flops(*layer.mixer.linears) + (layer.mlp.flops if layer.mlp else 0)


def _per_key(layer: Layer) -> tuple[int, int]:
    """Return the cost of one key: to expand it from latent attention, and to match one query."""
    mixer = layer.mixer
    if not isinstance(mixer, Attention):
        return 0, 0
    return mixer.latent.expand.flops if mixer.latent else 0, _pair(mixer)


def _pair(attention: Attention) -> int:
    return 2 * attention.heads * (attention.key_dim + attention.value_dim)


def _keys(layer: Layer, first: int, count: int) -> int:
    """Return the total keys that the queries at these positions attend to."""
    window = layer.mixer.window if isinstance(layer.mixer, Attention) else None
    if window is None:
        return _sum(first, count)
    growing = min(max(window - first, 0), count)
    return _sum(first, growing) + window * (count - growing)


def _sum(first: int, count: int) -> int:
    """Return the sum of `count` consecutive numbers."""
    return count * (2 * first + count - 1) // 2


def _sum_of_squares(first: int, count: int) -> int:
    """Return the sum of their squares."""
    return (
        count * first**2 + first * count * (count - 1) + (count - 1) * count * (2 * count - 1) // 6
    )


def _flops(*linears: Linear) -> int:
    return sum(linear.flops for linear in linears)


def _check(architecture: Architecture, **sizes: int) -> None:
    if architecture.flops_unknown:
        raise UserError(
            f"{architecture.model_type}: FLOPs cannot be counted: {architecture.flops_unknown}.",
            kind="not_countable",
        )
    check_work(**sizes)
