"""The registry of cache strategies, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvbench.caches.by_hand import BY_HAND
from kvbench.caches.entry import CacheStrategy, Need, Parameter
from kvbench.caches.held import in_pages, joined_room, on_host, whole_blocks, window_room
from kvbench.caches.kept import (
    all_positions,
    buffer_positions,
    kept_quantized,
    last_positions,
)
from kvbench.caches.needs import (
    BATCHING,
    BUFFERS,
    CACHE_OBJECTS,
    CUDA,
    DECODER_ONLY,
    FEWER_KEYS,
    GENERATE,
    GROUPED,
    KEYS_ONLY,
    ONE_CALL,
    PAGES,
    SEES_ALL,
    at_least,
    needs_extra,
)
from kvbench.caches.parameters import split_parameters
from kvbench.caches.yours import yours

__all__ = [
    "ALL",
    "BASELINE",
    "GROUPS",
    "PACKAGES",
    "STRATEGIES",
    "expand",
    "may_be_left_out",
    "strategy",
]

BASELINE = "off"
"""The baseline: the strategy that others are compared with."""

PAGE = Parameter("page", "Positions per page.", default=256)
SIZE = Parameter("size", "Latest positions that a step attends to, including its own.", default=256)
STRATEGIES: dict[str, CacheStrategy] = {
    entry.name: entry
    for entry in (
        CacheStrategy(
            name="off",
            description="No cache: each step recomputes the keys and values of all positions.",
            body="kvbench.measure.caches.dynamic:nothing",
            use_cache=False,
            attends="nothing",
        ),
        CacheStrategy(
            name="dynamic",
            description="The Transformers default: keys and values are kept and grow by one "
            "position per step.",
            body="kvbench.measure.caches.dynamic:as_the_model_does",
            room=window_room,
        ),
        CacheStrategy(
            name="static",
            description="Preallocated, not compiled: full-length buffers from the start; each step "
            "attends to the whole buffer.",
            body="kvbench.measure.caches.static:eager",
            warmup="full",
            attends="buffer",
            needs=(CACHE_OBJECTS, BUFFERS),
            positions=buffer_positions,
        ),
        CacheStrategy(
            name="static-compiled",
            description="Like static, with the decoding step compiled for each batch size and "
            "length.",
            body="kvbench.measure.caches.static:compiled",
            warmup="full",
            compiles=True,
            attends="buffer",
            needs=(CUDA, CACHE_OBJECTS, BUFFERS, GENERATE),
            positions=buffer_positions,
        ),
        CacheStrategy(
            name="dynamic-full",
            description="Like dynamic, but keeps all positions of sliding-window models.",
            body="kvbench.measure.caches.dynamic:without_windows",
            needs=(
                Need(
                    lambda here, _: here.windows,
                    "this model has no sliding window, so this is the same as dynamic.",
                    "a sliding window",
                ),
                CACHE_OBJECTS,
                DECODER_ONLY,
                KEYS_ONLY,
            ),
            positions=all_positions,
        ),
        CacheStrategy(
            name="offloaded",
            description="Like dynamic, kept in host memory and fetched one layer ahead.",
            body="kvbench.measure.caches.dynamic:offloaded",
            attends="elsewhere",
            needs=(CUDA, CACHE_OBJECTS),
            holds=on_host,
        ),
        CacheStrategy(
            name="offloaded-static",
            description="Like static, kept in host memory and fetched one layer ahead.",
            body="kvbench.measure.caches.static:offloaded",
            warmup="full",
            attends="elsewhere",
            needs=(CUDA, CACHE_OBJECTS, BUFFERS),
            positions=buffer_positions,
            holds=on_host,
        ),
        CacheStrategy(
            name="quantized",
            description="Keys and values in fewer bits, dequantized at each step.",
            body="kvbench.measure.caches.quantized:quantized",
            lossy=True,
            attends="elsewhere",
            parameters=(
                Parameter("backend", "Quantization backend.", choices=("fp8", "quanto", "hqq")),
                Parameter("nbits", "Bits per value.", 4, ("2", "4"), only_with=GROUPED),
                Parameter("group", "Values that share a scale.", 64, only_with=GROUPED),
                Parameter(
                    "residual",
                    "New positions kept exact; when full, the whole cache is quantized again.",
                    128,
                    only_with=GROUPED,
                ),
            ),
            needs=(
                CACHE_OBJECTS,
                DECODER_ONLY,
                Need(
                    lambda here, _: not here.windows,
                    "the quantized cache of Transformers does not support sliding windows.",
                    "no sliding window",
                ),
                KEYS_ONLY,
                Need(
                    lambda here, _: at_least(here.versions.get("transformers"), (5, 18)),
                    "backend fp8 needs Transformers 5.18 or later.",
                    "Transformers 5.18",
                    of_machine=True,
                    packages=("transformers",),
                    only_with=("backend", ("fp8",)),
                ),
                needs_extra("quanto", ("optimum", "optimum-quanto")),
                needs_extra("hqq", ("hqq",)),
                Need(
                    lambda here, settings: (
                        not here.key_numbers or here.key_numbers % int(settings["group"]) == 0
                    ),
                    "the keys of one position do not divide into groups of this size; choose "
                    "another `group`.",
                    "whole groups",
                    only_with=GROUPED,
                ),
            ),
            kept=kept_quantized,
            converts=True,
        ),
        CacheStrategy(
            name="window",
            description="A sliding window: each step attends to the latest `size` positions, its "
            "own included; older keys and values are dropped. The prompt is processed in full.",
            body="kvbench.measure.caches.window:window",
            lossy=True,
            attends="elsewhere",
            parameters=(SIZE,),
            needs=(CACHE_OBJECTS, DECODER_ONLY, SEES_ALL, FEWER_KEYS),
            positions=last_positions,
            room=joined_room,
        ),
        CacheStrategy(
            name="sink-window",
            description="The latest positions and the first `sink` of each sequence, as in "
            "StreamingLLM, but without re-rotation: keys keep their original positions.",
            body="kvbench.measure.caches.window:window",
            lossy=True,
            attends="elsewhere",
            parameters=(SIZE, Parameter("sink", "First positions, always kept.", default=4)),
            needs=(CACHE_OBJECTS, DECODER_ONLY, SEES_ALL, FEWER_KEYS),
            positions=last_positions,
            room=window_room,
        ),
        CacheStrategy(
            name="paged",
            description="Continuous batching: keys and values in a paged pool, one request per "
            "sequence; no shared blocks, no CUDA graphs, no switch to flash attention.",
            body="kvbench.measure.caches.paged:eager",
            attends="elsewhere",
            parameters=(PAGE,),
            needs=(BATCHING, CACHE_OBJECTS, DECODER_ONLY, PAGES, GENERATE, ONE_CALL),
            room=whole_blocks("page"),
            holds=in_pages,
        ),
        CacheStrategy(
            name="paged-graphs",
            description="Like paged, with each step recorded as a CUDA graph and replayed.",
            body="kvbench.measure.caches.replayed:graphs",
            warmup="full",
            attends="elsewhere",
            parameters=(PAGE,),
            needs=(CUDA, BATCHING, CACHE_OBJECTS, DECODER_ONLY, PAGES, GENERATE, ONE_CALL),
            room=whole_blocks("page"),
            holds=in_pages,
        ),
    )
}
STRATEGIES |= {entry.name: entry for entry in BY_HAND}


PACKAGES = tuple(
    sorted({one for e in STRATEGIES.values() for need in e.needs for one in need.packages})
)
"""The packages whose versions some strategy requires."""

ALL = "all"

GROUPS: dict[str, tuple[CacheStrategy, ...]] = {
    ALL: tuple(STRATEGIES.values()),
    "transformers": tuple(entry for entry in STRATEGIES.values() if entry not in BY_HAND),
    "by-hand": BY_HAND,
}
"""Names for several strategies. Those that cannot run here are skipped, with a row each."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of strategies, each once, with groups expanded to their members.

    A required parameter takes each of its choices.
    """
    found: list[str] = []
    for name in names:
        members = [one for entry in GROUPS.get(name, ()) for one in _every(entry)]
        found += members or [name]
    return tuple(dict.fromkeys(found))


def may_be_left_out(cache: str, names: Collection[str]) -> bool:
    """Return whether a strategy is included only because `names` contains a group."""
    return cache not in names and any(name in GROUPS for name in names)


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

    It may also be a user-supplied one; see kvbench/caches/yours.py.

    Raises:
        UserError: no strategy has that name, or a parameter is wrong.
    """
    if name.partition(":")[0] not in STRATEGIES and (found := yours(name)) is not None:
        return found
    head, texts = split_parameters("cache", name, STRATEGIES)
    entry = STRATEGIES[head]
    return entry.with_settings(texts) if texts or entry.parameters else entry
