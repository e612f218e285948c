"""What each cache strategy holds, how fast it can be at best, and how much of it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from kvbench.caches import CacheStrategy, Situation, strategy
from kvbench.device_kinds import HOST, kind_of
from kvbench.errors import UserError
from kvbench.records.rates import Rates
from kvbench.theory.advice import UNBOUNDED, largest_batch, longest_context, needed_bytes
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes, held_bytes
from kvbench.theory.floors import Floor, floor, stepwise
from kvbench.theory.layers import Attention, Kept
from kvbench.theory.work import Work

__all__ = [
    "StrategyBound",
    "StrategyEstimate",
    "estimate_strategies",
    "situation_of",
    "strategy_floor",
]

_FAR = 1 << 50
"""More positions than any cache keeps; a strategy that keeps fewer of so many has a limit."""


@dataclass(frozen=True, kw_only=True)
class StrategyBound:
    """The lower bound of a strategy on one device.

    Attributes:
        hardware: the device.
        seconds: the least seconds of the generation; null if unknown.
        reason: then why.
    """

    hardware: str
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class StrategyEstimate:
    """One cache strategy on a model. Null means unknown or not asked for.

    Attributes:
        cache: the strategy.
        lossy: whether the tokens may differ from those without a cache.
        reason: why it cannot run with this model, or why its bytes are unknown.
        attended_bytes: what the last step attends to, in the form in which it is kept.
        device_bytes: what is allocated in the device's memory.
        host_bytes: what is kept in host memory instead.
        disk_bytes: the files.
        needed_bytes: what the generation needs on the device in addition to the weights.
        largest_batch: sequences of this length that fit; `UNBOUNDED` means no limit.
        longest_context: positions that fit at this batch, at most those of the model.
        bounds: the lower bounds on each device.
    """

    cache: str
    lossy: bool
    reason: str | None = None
    attended_bytes: int | None = None
    device_bytes: int | None = None
    host_bytes: int | None = None
    disk_bytes: int | None = None
    needed_bytes: int | None = None
    largest_batch: int | None = None
    longest_context: int | None = None
    bounds: tuple[StrategyBound, ...] = ()


def estimate_strategies(
    architecture: Architecture,
    work: Work,
    caches: Iterable[str],
    *,
    rates: Collection[Rates] = (),
    room_bytes: int | None = None,
    max_positions: int | None = None,
) -> tuple[StrategyEstimate, ...]:
    """Return what each strategy costs, in the order given.

    Args:
        architecture: the model.
        work: what is generated.
        caches: the strategies.
        rates: the rates of the devices to compute lower bounds for.
        room_bytes: memory of the device next to the weights, to compute what fits.
        max_positions: the positions that the model was made for.

    Raises:
        UserError: a strategy or the dtype is unknown.
    """
    here = situation_of(architecture, HOST, work.dtype)
    found = []
    for cache in caches:
        entry = strategy(cache)
        known = StrategyEstimate(cache=entry.name, lossy=entry.lossy)
        reason = entry.unmet_by_model(here)
        try:
            if reason is None:
                known = _with_bytes(known, architecture, work, room_bytes, max_positions)
        except UserError as error:
            reason = str(error)
        if reason is None:
            bounds = tuple(_bound(architecture, work, entry, one) for one in rates)
            known = dataclasses.replace(known, bounds=bounds)
        found.append(dataclasses.replace(known, reason=reason))
    return tuple(found)


def situation_of(
    architecture: Architecture,
    device: str,
    dtype: str,
    versions: Mapping[str, str] | None = None,
) -> Situation:
    """Return what the needs of strategies are checked against, as far as theory knows it.

    Args:
        architecture: the model.
        device: the kind of device.
        dtype: of the weights.
        versions: installed packages and their versions.
    """
    mixers = [layer.mixer for layer in architecture.layers]
    attention = [mixer for mixer in mixers if isinstance(mixer, Attention | Kept) and mixer.kept]
    numbers = {mixer.kv_heads * mixer.key_dim for mixer in attention}
    return Situation(
        device=device,
        versions=versions or {},
        encoder_decoder=bool(architecture.encoder),
        windows=any(mixer.window for mixer in attention),
        sees_all=any(not mixer.window for mixer in attention),
        key_numbers=numbers.pop() if len(numbers) == 1 else None,
        dtype=dtype,
        keys_in_every_layer=all(map(_keys_only, mixers)),
        has_states=any(map(_has_state, mixers)),
    )


def strategy_floor(architecture: Architecture, cache: str, work: Work, rates: Rates) -> Floor:
    """Return the lower bound of a generation with any strategy.

    It is that of `dynamic`, with what the strategy's entry says:

    - a strategy that keeps only some positions reads no others;
    - one that attends to a buffer reads all of it at each step;
    - one that converts what it keeps reads it, writes it in the model's dtype, and reads that;
    - what is kept in host memory crosses the bus at each step, while the device works.

    Raises:
        UserError: as for `kvbench.theory.floors.floor`; or the bus was not probed.
    """
    entry = strategy(cache)
    sizes = (*work.sizes, work.dtype)
    if not entry.use_cache:
        return floor(architecture, cache, *sizes, rates)
    limited = _limited(architecture, entry)
    least = floor(limited, "dynamic", *sizes, rates)
    start = (work.batch, work.prompt_tokens)

    def plain(step: int) -> int:
        return cache_bytes(limited, "dynamic", *start, step, work.dtype)

    def own(step: int) -> int:
        return cache_bytes(architecture, cache, *start, step, work.dtype)

    more = np.zeros(work.new_tokens)
    if entry.attends == "buffer":
        more = own(work.new_tokens) - stepwise(plain, work.new_tokens)
    elif entry.converts:
        more = stepwise(own, work.new_tokens) + stepwise(plain, work.new_tokens)
    # The prefill reads nothing of an empty cache.
    more[0] = 0
    link = None
    if held_bytes(architecture, cache, *sizes).host:
        if rates.host_bytes_per_s is None:
            raise UserError(
                "No lower bound for a cache in host memory: the transfer rate was not probed. Run "
                "kvbench probe on the machine that has the device.",
                kind="rate_unknown",
            )
        link = stepwise(own, work.new_tokens) / rates.host_bytes_per_s
        link[0] = 0
    return dataclasses.replace(least, moved=least.moved + more, link=link)


def _with_bytes(
    known: StrategyEstimate,
    architecture: Architecture,
    work: Work,
    room_bytes: int | None,
    max_positions: int | None,
) -> StrategyEstimate:
    held = held_bytes(architecture, known.cache, *work.sizes, work.dtype)
    known = dataclasses.replace(
        known,
        attended_bytes=held.attended,
        device_bytes=held.device,
        host_bytes=held.host,
        disk_bytes=held.disk,
        needed_bytes=needed_bytes(architecture, work, known.cache),
    )
    if room_bytes is None:
        return known
    context = longest_context(architecture, work, known.cache, room_bytes)
    return dataclasses.replace(
        known,
        largest_batch=largest_batch(architecture, work, known.cache, room_bytes),
        longest_context=min(context, max_positions or UNBOUNDED),
    )


def _bound(
    architecture: Architecture, work: Work, entry: CacheStrategy, rates: Rates
) -> StrategyBound:
    reason = entry.lacks_kind(kind_of(rates.device).name)
    if reason is None:
        try:
            found = strategy_floor(architecture, entry.name, work, rates)
        except UserError as error:
            reason = str(error)
        else:
            return StrategyBound(hardware=rates.hardware, seconds=found.seconds)
    return StrategyBound(hardware=rates.hardware, reason=reason)


def _has_state(mixer: object) -> bool:
    """Return whether a layer keeps a state of constant size."""
    if isinstance(mixer, Kept):
        return bool(mixer.state or mixer.state_float32)
    return not isinstance(mixer, Attention)


def _keys_only(mixer: object) -> bool:
    """Return whether a layer keeps its own keys and values, and nothing else."""
    if isinstance(mixer, Attention):
        return not mixer.latent and not mixer.shared
    if not isinstance(mixer, Kept):
        return False
    return bool(mixer.kv_heads) and not (
        mixer.other or mixer.other_float32 or mixer.state or mixer.state_float32
    )


def _limited(architecture: Architecture, entry: CacheStrategy) -> Architecture:
    """Return the architecture with the positions that a strategy keeps as windows."""
    layers = []
    for layer in architecture.layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention):
            most = entry.positions_kept(_FAR, mixer.window)
            if most < _FAR:
                # A step attends to what is kept and to its own position.
                mixer = dataclasses.replace(mixer, window=most + 1)
            layer = dataclasses.replace(layer, mixer=mixer)
        layers.append(layer)
    return dataclasses.replace(architecture, layers=tuple(layers))
