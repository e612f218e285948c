"""Needs that several strategies share."""

from __future__ import annotations

import re

from kvbench.caches.entry import Need, needs_kind

__all__ = [
    "BATCHING",
    "BUFFERS",
    "CACHE_OBJECTS",
    "CUDA",
    "DECODER_ONLY",
    "FEWER_KEYS",
    "GENERATE",
    "GROUPED",
    "KEYS_ONLY",
    "NO_STATES",
    "NO_WINDOWS",
    "ONE_CALL",
    "PAGES",
    "SEES_ALL",
    "at_least",
    "needs_extra",
]


CACHE_OBJECTS = Need(
    lambda here, _: here.cache_objects,
    "this model creates its own cache and does not accept a Transformers cache object.",
    "cache objects",
)
DECODER_ONLY = Need(
    lambda here, _: not here.encoder_decoder,
    "encoder-decoder models are not supported.",
    "a decoder",
)
NO_WINDOWS = Need(
    lambda here, _: not here.windows,
    "it keeps all positions in every layer, so sliding-window models are not supported.",
    "no sliding window",
)
NO_STATES = Need(
    lambda here, _: here.keys_in_every_layer,
    "it stores only keys and values, but this model has layers with other state.",
    "attention in every layer",
)
ONE_CALL = Need(
    lambda here, _: here.reuse != "conversation",
    "its cache does not outlive the call that created it, so it cannot be kept for the next turn.",
    "reuse none or turn",
)
KEYS_ONLY = Need(
    lambda here, _: not here.has_states,
    "it stores only keys and values, but this model has layers with other state.",
    "no states",
)
BUFFERS = Need(
    lambda here, _: here.takes_buffers,
    "the attention of this model cannot handle the empty slots of a static buffer.",
    "static buffers",
)
FEWER_KEYS = Need(
    lambda here, _: here.takes_fewer_keys,
    "this model adds a position bias (ALiBi) to its mask, so no key may be missing.",
    "no ALiBi over the mask",
)
SEES_ALL = Need(
    lambda here, _: here.sees_all,
    "each layer of this model already has a window or keeps no keys and values.",
    "a layer with full attention",
)
PAGES = Need(
    lambda here, _: here.pages,
    "continuous batching does not support this model, or not with this attention implementation.",
    "an attention implementation that continuous batching supports",
)
GENERATE = Need(
    lambda here, _: here.driver == "generate",
    "it needs Transformers' own code to call the model: --driver generate.",
    "driver generate",
)
CUDA = needs_kind("cuda", "it needs a CUDA device.", "CUDA")

BATCHING = Need(
    # Before that, continuous batching may switch to flash attention by itself.
    lambda here, _: at_least(here.versions.get("transformers"), (5, 19)),
    "it needs Transformers 5.19 or later.",
    "Transformers 5.19",
    of_machine=True,
    packages=("transformers",),
)

GROUPED = ("backend", ("quanto", "hqq"))


def at_least(version: str | None, wanted: tuple[int, ...]) -> bool:
    """Return whether a version is installed and not older than the required one."""
    if version is None:
        return False
    numbers = [int(part) for part in re.findall(r"\d+", version)[: len(wanted)]]
    return tuple(numbers) >= wanted


def needs_extra(backend: str, packages: tuple[str, ...]) -> Need:
    """Return the need for the packages of a quantization backend, an extra of kvbench."""
    return Need(
        lambda here, _: all(one in here.versions for one in packages),
        f"it needs {' and '.join(packages)}: install with pip install 'kvbench[{backend}]'.",
        " and ".join(packages),
        of_machine=True,
        packages=packages,
        only_with=("backend", (backend,)),
    )
