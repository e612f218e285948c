"""Estimate the cost of a generation from a model's configuration, and show the formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ByteSize, TypeAdapter, ValidationError

from kvbench.caches import BASELINE
from kvbench.caches.kept import kept_positions
from kvbench.dtypes import dtype_bytes
from kvbench.errors import UserError
from kvbench.plan.ranges import MAX_SIZE
from kvbench.records.rates import Rates
from kvbench.text import clip
from kvbench.theory.advice import UNBOUNDED, largest_batch, longest_context
from kvbench.theory.architecture import FAMILIES, Architecture
from kvbench.theory.cache import cache_bytes, check_work, per_token_bytes
from kvbench.theory.fields import SPELLINGS
from kvbench.theory.floors import Limit, floor, pays_from
from kvbench.theory.flops import generation_flops, kv_projection_flops
from kvbench.theory.layers import Attention, Kept, Layer
from kvbench.theory.strategies import StrategyEstimate, estimate_strategies
from kvbench.theory.weights import parameters, weights_bytes
from kvbench.theory.work import Work

__all__ = [
    "UNBOUNDED",
    "DeviceFloor",
    "Estimate",
    "Work",
    "estimate",
    "formula",
    "max_positions",
    "parse_bytes",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DeviceFloor:
    """The lower bounds with and without a cache on one device.

    Attributes:
        hardware: the device.
        source: `probe` or `published`.
        read_bytes_per_s: its bandwidth.
        flops_per_s: its arithmetic rate in the dtype.
        off_s: the least seconds of the generation without a cache.
        on_s: with one.
        speedup: the expected ratio, including what was probed beyond the bounds.
        off_limit: what dominates the lower bound without a cache.
        on_limit: with one.
        pays_from: new tokens from which the cache is expected to be 5 % faster; null if beyond the
            work.
    """

    hardware: str
    source: str
    read_bytes_per_s: float
    flops_per_s: float
    off_s: float
    on_s: float
    speedup: float
    off_limit: Limit
    on_limit: Limit
    pays_from: int | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a generation. Null means that theory cannot tell; `notes` say why.

    Attributes:
        model: its name.
        model_type: Transformers' name of the family.
        work: what is generated.
        positions: positions in the cache at the end, of a decoder without windows.
        parameters: number of weights.
        weights_bytes: their bytes.
        cache_bytes_per_token: cache growth in bytes per token and sequence, until windows are full.
        cache_bytes: bytes of the cache at the end.
        formula: `cache_bytes` as a product with its numbers, one line per kind of layer.
        kv_projection_flops: FLOPs of making the keys and values of all positions once, which
            generation without a cache repeats at every step.
        flops_off: FLOPs of the generation without a cache.
        flops_on: with one.
        floors: lower bounds on each requested device.
        memory_bytes: the given memory.
        largest_batch: sequences of this length that fit into it next to the weights with `dynamic`;
            0 if none. A tenth of the room is left for what theory does not count.
        longest_context: positions that fit at this batch size, and no more than `max_positions`; 0
            if none. `UNBOUNDED` in both means no limit.
        max_positions: the positions that the model was made for; null if unknown.
        strategies: bytes, lower bounds and what fits, for each cache strategy that was named.
        notes: what is left out, and why; what does not fit.
    """

    model: str
    model_type: str
    work: Work
    positions: int
    parameters: int | None
    weights_bytes: int | None
    cache_bytes_per_token: int
    cache_bytes: int
    formula: tuple[str, ...]
    kv_projection_flops: int | None
    flops_off: int | None
    flops_on: int | None
    floors: tuple[DeviceFloor, ...] = ()
    memory_bytes: int | None = None
    largest_batch: int | None = None
    longest_context: int | None = None
    max_positions: int | None = None
    strategies: tuple[StrategyEstimate, ...] = ()
    notes: tuple[str, ...] = ()


def estimate(
    model: str,
    architecture: Architecture,
    work: Work,
    *,
    rates: Iterable[Rates] = (),
    memory_bytes: int | None = None,
    max_positions: int | None = None,
    caches: Iterable[str] = (),
) -> Estimate:
    """Estimate the cost of a generation.

    Args:
        model: its name, for the output.
        architecture: the architecture read from its configuration.
        work: what is generated.
        rates: the rates of the devices to compute lower bounds for.
        memory_bytes: the memory of the device, to compute what fits.
        max_positions: the positions that the model was made for, for a note.
        caches: the cache strategies to cover one by one.

    Raises:
        UserError: a size is less than 1 or above 2**31 - 1, or the dtype is unknown.
    """
    sizes, rates = work.sizes, tuple(rates)
    check_work(batch=work.batch, prompt_tokens=work.prompt_tokens, max_new_tokens=work.new_tokens)
    for name, size in zip(("batch", "prompt_tokens", "max_new_tokens"), sizes, strict=True):
        if size > MAX_SIZE:
            raise UserError(
                f"{name}: {clip(size)} is larger than {MAX_SIZE:,}.", kind="too_large", name=name
            )
    positions = (1 if architecture.encoder else work.prompt_tokens) + work.new_tokens - 1
    told = _Teller()
    if max_positions is not None and positions > max_positions:
        told.notes.append(f"{positions} positions exceed the {max_positions} of the model.")
    weights = told.of(lambda: weights_bytes(architecture, work.dtype))
    fits = None
    room = None if memory_bytes is None or weights is None else memory_bytes - weights
    if room is not None:
        fits = tuple(
            most(architecture, work, "dynamic", room) for most in (largest_batch, longest_context)
        )
        if fits[0] < work.batch:
            told.notes.append("This case does not fit in the given memory.")
    return Estimate(
        model=model,
        model_type=architecture.model_type,
        work=work,
        positions=positions,
        parameters=told.of(lambda: parameters(architecture)),
        weights_bytes=weights,
        cache_bytes_per_token=per_token_bytes(architecture, work.dtype),
        cache_bytes=cache_bytes(architecture, "dynamic", *sizes, work.dtype),
        formula=formula(architecture, work),
        kv_projection_flops=told.of(
            lambda: kv_projection_flops(architecture, work.batch, positions)
        ),
        flops_off=told.of(lambda: generation_flops(architecture, "off", *sizes)),
        flops_on=told.of(lambda: generation_flops(architecture, "dynamic", *sizes)),
        floors=tuple(found for one in rates if (found := told.floors(architecture, work, one))),
        memory_bytes=memory_bytes,
        largest_batch=fits[0] if fits else None,
        longest_context=min(fits[1], max_positions or UNBOUNDED) if fits else None,
        max_positions=max_positions,
        strategies=estimate_strategies(
            architecture, work, caches, rates=rates, room_bytes=room, max_positions=max_positions
        ),
        notes=tuple(dict.fromkeys(told.notes)),
    )


def formula(architecture: Architecture, work: Work) -> tuple[str, ...]:
    """Return the bytes of the cache at the end as products with their numbers.

    There is one line per kind of layer: the number of layers, what they keep per position, the
    number of positions, and the number of sequences.
    """
    seen = (1 if architecture.encoder else work.prompt_tokens) + work.new_tokens - 1
    width = dtype_bytes(work.dtype)
    counts: Counter[tuple[str, int]] = Counter()
    for layer in architecture.layers:
        for text, size in _terms(layer, seen, work, width):
            counts[text, size] += 1
    return tuple(
        f"{count} layer{'s' * (count != 1)} x {text} = {count * size:,} bytes"
        for (text, size), count in counts.items()
    )


def parse_bytes(option: str, text: str) -> int:
    """Parse a size such as `80GiB`, `24 GB` or `16000000000` into bytes.

    Raises:
        UserError: it is not a size.
    """
    try:
        size = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        size = ByteSize(0)
    # No device has less than a MiB: the unit is missing.
    if size < 1 or (text.strip().isdecimal() and size < 1 << 20):
        raise UserError(
            f"{option}: {clip(text)!r} is not a size; use 80GiB or 24GB.",
            kind="not_a_size",
            name=option,
            value=text,
        )
    return int(size)


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Return the positions that a model was made for, if its configuration says so."""
    text = config.get("text_config")
    parts = (text if isinstance(text, Mapping) else {}, config)
    found = [part.get(name) for part in parts for name in SPELLINGS["max_position_embeddings"]]
    # Missing fields have the family's default, as everywhere else.
    for part in parts:
        defaults, _ = FAMILIES.get(str(part.get("model_type")), ({}, None))
        found.append(defaults.get("max_position_embeddings"))
    return next((value for value in found if type(value) is int and value > 0), None)


class _Teller:
    """Query theory, and keep what it cannot compute as notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def of(self, ask: Callable[[], T]) -> T | None:
        """Return the answer, or None and a note."""
        try:
            return ask()
        except UserError as error:
            self.notes.append(str(error))
            return None

    def floors(self, architecture: Architecture, work: Work, rates: Rates) -> DeviceFloor | None:
        """Return the lower bounds on one device, or None and a note."""
        return self.of(lambda: _floors(architecture, work, rates))


def _floors(architecture: Architecture, work: Work, rates: Rates) -> DeviceFloor:
    sizes = (work.batch, work.prompt_tokens, work.new_tokens, work.dtype)
    off, on = (floor(architecture, name, *sizes, rates) for name in (BASELINE, "dynamic"))
    return DeviceFloor(
        hardware=rates.hardware,
        source=rates.source,
        read_bytes_per_s=off.bytes_per_s,
        flops_per_s=off.flops_per_s,
        off_s=off.seconds,
        on_s=on.seconds,
        speedup=off.expected_s / on.expected_s,
        off_limit=off.limited_by(off.seconds),
        on_limit=on.limited_by(on.seconds),
        pays_from=pays_from(off, on),
    )


def _terms(layer: Layer, seen: int, work: Work, width: int) -> Iterator[tuple[str, int]]:
    """Return what one layer keeps, as a product and its value."""
    batch = f"batch {work.batch}"
    if isinstance(layer.mixer, Kept):
        yield from _terms_of_kept(layer.mixer, seen, work, width)
        return
    for mixer, positions in ((layer.mixer, seen), (layer.cross, work.prompt_tokens)):
        if isinstance(mixer, Attention) and mixer.shared:
            yield "the keys and values of another", 0
        elif isinstance(mixer, Attention):
            held = kept_positions(positions, mixer.window)
            kept = _kept(mixer)
            window = "" if mixer.window is None else f" (window {mixer.window} - 1)"
            yield (
                f"{batch} x {kept} x {held} positions{window} x {width} bytes",
                work.batch * mixer.kept * held * width,
            )
        elif mixer is not None:
            size = work.batch * mixer.kept_bytes(width)
            yield f"{batch} x a state of {mixer.kept_bytes(width):,} bytes", size


def _terms_of_kept(layer: Kept, seen: int, work: Work, width: int) -> Iterator[tuple[str, int]]:
    """Return the same for a layer that was read from the model itself."""
    batch = f"batch {work.batch}"
    held = seen if layer.window is None else min(seen, layer.window - 1)
    window = "" if layer.window is None else f" (window {layer.window} - 1)"
    heads = layer.kv_heads * (layer.key_dim + layer.value_dim)
    growing = (
        (_kv_heads(layer.kv_heads, layer.key_dim, layer.value_dim), heads, width),
        (f"{layer.other} numbers", layer.other, width),
        (f"{layer.other_float32} numbers", layer.other_float32, dtype_bytes("float32")),
    )
    for said, numbers, each in growing:
        if numbers:
            size = work.batch * numbers * held * each
            yield f"{batch} x {said} x {held} positions{window} x {each} bytes", size
    if state := layer.kept_bytes(width):
        yield f"{batch} x a state of {state:,} bytes", work.batch * state
    if layer.cross:
        size = work.batch * layer.cross * work.prompt_tokens * width
        yield (
            f"{batch} x {layer.cross} numbers x {work.prompt_tokens} positions of the encoder x "
            f"{width} bytes",
            size,
        )


def _kept(mixer: Attention) -> str:
    """Return the numbers that one position adds to the cache of one layer."""
    if mixer.latent:
        return f"({mixer.latent.rank} latent + {mixer.latent.rope_dim} rotary)"
    return _kv_heads(mixer.kv_heads, mixer.key_dim, mixer.value_dim)


def _kv_heads(count: int, key_dim: int, value_dim: int) -> str:
    heads = f"{count} kv heads"
    if key_dim == value_dim:
        return f"2 x {heads} x {key_dim} head dim"
    return f"{heads} x ({key_dim} key + {value_dim} value)"
