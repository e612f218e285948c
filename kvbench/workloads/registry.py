"""The registry of workloads, by name."""

from __future__ import annotations

from collections.abc import Callable

from kvbench.caches.entry import Need, Situation
from kvbench.caches.needs import DECODER_ONLY
from kvbench.caches.parameters import Parameter, split_parameters
from kvbench.workloads.entry import Workload

__all__ = ["SINGLE", "WORKLOADS", "workload"]

SINGLE = "single"
"""The workload of runs that predate workloads."""

_BODIES = "kvbench.measure.workloads"

_NO_FILE = ("file", ("",))


def _kept(met: Callable[[Situation], bool], what: str, label: str) -> Need:
    """Return the need of a cache that is kept from turn to turn."""
    return Need(
        lambda here, _: here.reuse != "conversation" or met(here),
        f"reuse conversation needs {what}.",
        label,
    )


WORKLOADS: dict[str, Workload] = {
    entry.name: entry
    for entry in (
        Workload(
            name=SINGLE,
            description="One prompt, and one generation that continues it.",
            body=f"{_BODIES}.{SINGLE}:run",
            rows="a generation",
        ),
        Workload(
            name="chat",
            description="A conversation: each turn adds a message, and the model replies.",
            body=f"{_BODIES}.chat:run",
            rows="a turn",
            has_turns=True,
            methods=("each",),
            parameters=(
                Parameter("file", "Conversations in JSON Lines.", default="", is_text=True),
                Parameter("turns", "Turns.", default=8, only_with=_NO_FILE),
                Parameter("user", "Tokens of each message.", default=64, only_with=_NO_FILE),
                Parameter("reply", "New tokens of each reply.", default=128),
            ),
            needs=(
                DECODER_ONLY,
                _kept(lambda here: here.cache_objects, "a cache object", "cache objects"),
                _kept(
                    lambda here: here.keys_in_every_layer,
                    "keys and values in every layer",
                    "attention in every layer",
                ),
                _kept(
                    lambda here: here.driver == "generate", "--driver generate", "driver generate"
                ),
            ),
        ),
    )
}


def workload(name: str) -> Workload:
    """Return a workload by its name, with its parameters: `chat:turns=8`.

    Raises:
        UserError: no workload has that name, or a parameter is wrong.
    """
    head, texts = split_parameters("workload", name, WORKLOADS)
    return WORKLOADS[head].with_settings(texts)
