"""The registry of cache strategies, by name."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from kvbench.caches.by_hand import BY_HAND
from kvbench.caches.entry import (
    CacheStrategy,
    Need,
    Parameter,
    Settings,
    all_positions,
    needs_kind,
    window_positions,
)
from kvbench.caches.needs import CACHE_OBJECTS, DECODER_ONLY
from kvbench.caches.yours import yours
from kvbench.errors import UserError, check_choice
from kvbench.text import clip

__all__ = ["ALL", "BASELINE", "STRATEGIES", "expand", "may_be_left_out", "strategy"]

BASELINE = "off"
"""The strategy that others are compared with."""

SEES_ALL = Need(
    lambda here, _: here.sees_all,
    "each layer of this model has a window of its own or keeps no keys and values.",
    "a layer that sees all positions",
)
SIZE = Parameter("size", "Last positions that a step attends to, its own included.", default=256)
CUDA = needs_kind("cuda", "it needs a CUDA device.", "CUDA")


def at_least(version: str | None, wanted: tuple[int, ...]) -> bool:
    """Return whether a version is there and not older than the one that is wanted."""
    if version is None:
        return False
    numbers = [int(part) for part in re.findall(r"\d+", version)[: len(wanted)]]
    return tuple(numbers) >= wanted


def last_positions(seen: int, window: int | None, settings: Settings) -> int:
    """Return the positions that are kept of the first and last ones.

    A step brings its own position, which is one of the last. A window of the model's own stays.
    """
    if window is not None:
        return window_positions(seen, window, settings)
    return min(seen, int(settings.get("sink", 0)) + int(settings["size"]) - 1)


def buffer_positions(seen: int, window: int | None, _: Settings) -> int:
    """Return the positions of a buffer for all that are fed, or for a whole window."""
    return seen if window is None else min(seen, window)


STRATEGIES: dict[str, CacheStrategy] = {
    entry.name: entry
    for entry in (
        CacheStrategy(
            name="off",
            description="No cache: each step computes the keys and values of all positions again.",
            body="kvbench.measure.caches.dynamic:nothing",
            use_cache=False,
            attends="nothing",
        ),
        CacheStrategy(
            name="dynamic",
            description="Transformers' default: keys and values are kept and grow by one position "
            "a step.",
            body="kvbench.measure.caches.dynamic:as_the_model_does",
        ),
        CacheStrategy(
            name="static",
            description="Preallocated, not compiled: buffers for all positions from the start; "
            "each step attends to the whole buffer.",
            body="kvbench.measure.caches.static:eager",
            warmup="full",
            attends="buffer",
            needs=(CACHE_OBJECTS,),
            positions=buffer_positions,
        ),
        CacheStrategy(
            name="static-compiled",
            description="The same, and the decoding step is compiled for each batch size and "
            "length.",
            body="kvbench.measure.caches.static:compiled",
            warmup="full",
            compiles=True,
            attends="buffer",
            needs=(CUDA, CACHE_OBJECTS),
            positions=buffer_positions,
        ),
        CacheStrategy(
            name="dynamic-full",
            description="Like dynamic, without the window of sliding-window models.",
            body="kvbench.measure.caches.dynamic:without_windows",
            needs=(
                Need(
                    lambda here, _: here.windows,
                    "this model has no sliding window, so it is the same as dynamic.",
                    "a sliding window",
                ),
                CACHE_OBJECTS,
                DECODER_ONLY,
            ),
            positions=all_positions,
        ),
        CacheStrategy(
            name="offloaded",
            description="Like dynamic, kept in host memory and fetched one layer ahead.",
            body="kvbench.measure.caches.dynamic:offloaded",
            attends="elsewhere",
            needs=(CUDA, CACHE_OBJECTS),
        ),
        CacheStrategy(
            name="offloaded-static",
            description="Like static, kept in host memory and fetched one layer ahead.",
            body="kvbench.measure.caches.static:offloaded",
            warmup="full",
            attends="elsewhere",
            needs=(CUDA, CACHE_OBJECTS),
            positions=buffer_positions,
        ),
        CacheStrategy(
            name="quantized",
            description="Keys and values in fewer bits, dequantized at each step.",
            body="kvbench.measure.caches.quantized:quantized",
            lossy=True,
            attends="elsewhere",
            parameters=(Parameter("backend", "Who quantizes, and to what.", choices=("fp8",)),),
            needs=(
                CACHE_OBJECTS,
                DECODER_ONLY,
                Need(
                    lambda here, _: not here.windows,
                    "Transformers' quantized cache knows no sliding windows.",
                    "no sliding window",
                ),
                Need(
                    lambda here, _: at_least(here.versions.get("transformers"), (5, 18)),
                    "backend fp8 needs Transformers 5.18 or later.",
                    "Transformers 5.18",
                    of_machine=True,
                ),
            ),
            kept=lambda layer, positions, _: positions * layer.numbers,
        ),
        CacheStrategy(
            name="window",
            description="The last positions only: a step attends to `size` of them, its own "
            "included, and older keys and values are dropped. The prompt is read whole.",
            body="kvbench.measure.caches.window:window",
            lossy=True,
            attends="elsewhere",
            parameters=(SIZE,),
            needs=(CACHE_OBJECTS, DECODER_ONLY, SEES_ALL),
            positions=last_positions,
        ),
    )
}
STRATEGIES |= {entry.name: entry for entry in BY_HAND}


ALL = "all"
"""In place of names: every strategy. Those that cannot run here are left out, with a row each."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of strategies, each once, with every strategy in place of `all`.

    A parameter that must be given takes each of its choices.
    """
    found: list[str] = []
    for name in names:
        found += (
            [one for entry in STRATEGIES.values() for one in _every(entry)]
            if name == ALL
            else [name]
        )
    return tuple(dict.fromkeys(found))


def may_be_left_out(cache: str, names: Container[str]) -> bool:
    """Return whether a strategy is there only because `names` has `all` in it."""
    return ALL in names and cache not in names


def _every(entry: CacheStrategy) -> list[str]:
    found = [entry.name]
    for parameter in entry.parameters:
        if parameter.default is None:
            found = [
                f"{name}:{parameter.name}={value}" for name in found for value in parameter.choices
            ]
    return [strategy(name).name for name in found]


def strategy(name: str) -> CacheStrategy:
    """Return a strategy by its name, with its parameters: `quantized:backend=fp8`.

    It may also be one from elsewhere; see kvbench/caches/yours.py.

    Raises:
        UserError: no strategy has that name, or a parameter is wrong.
    """
    head, *parts = name.split(":")
    if head not in STRATEGIES and (found := yours(name)) is not None:
        return found
    check_choice("cache", "strategy", head, STRATEGIES)
    entry = STRATEGIES[head]
    if not (parts or entry.parameters):
        return entry
    texts: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key in texts:
            raise UserError(f"cache: '{clip(name)}': write parameters once each, as name=value.")
        texts[key] = value
    return entry.with_settings(texts)
