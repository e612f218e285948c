"""The grid of a plan: which values of the axes make a case together, for each workload."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kvbench.caches import strategy
from kvbench.errors import UserError
from kvbench.plan.axes import AXES
from kvbench.plan.case import Prompt
from kvbench.plan.file import read_conversations
from kvbench.workloads import Workload, workload

__all__ = ["points_of"]

Values = Mapping[str, tuple[Any, ...]]


def points_of(values: Values, most: int | None = None) -> tuple[dict[str, Any], ...]:
    """Return the points of a grid, each with a value of every axis.

    Args:
        values: the values of each axis that a plan has a key for, the outermost axis first.
        most: how many points are allowed; None for any number.

    Raises:
        UserError: there are more, or none is left.
    """
    grids = [grid for name in values["workload"] for grid in _grids(values, workload(name))]
    points = (
        dict(zip(grid, point, strict=True))
        for grid in grids
        for point in itertools.product(*grid.values())
    )
    found = (point for point in points if _goes_together(point))
    kept = tuple(found if most is None else itertools.islice(found, most + 1))
    if most is not None and len(kept) > most:
        count = len(kept) + sum(1 for _ in found)
        raise UserError(
            f"The grid has {count:,} cases, more than {most:,}: pass --yes to run it anyway.",
            kind="too_many_cases",
            count=count,
        )
    if not kept:
        raise UserError(
            "No case is left: with a conversation, cache off goes with reuse none, and every other "
            "cache with reuse turn or conversation.",
            kind="no_cases",
        )
    return kept


def _goes_together(point: Mapping[str, Any]) -> bool:
    """Return whether a cache and its reuse make sense together.

    Without a cache nothing is kept, whatever the reuse: one case, with the reuse `none`. A cache
    that is not used is that same case.
    """
    if not workload(point["workload"]).has_turns:
        return True
    return bool(strategy(point["cache"]).use_cache == (point["reuse"] != "none"))


def _grids(values: Values, entry: Workload) -> Iterator[Values]:
    """Return the axes of a workload, with the values that follow from it."""
    own = {**values, "workload": (entry.name,)}
    if not entry.has_turns:
        yield own | {name: (axis.legacy,) for name, axis in AXES.items() if axis.of_turns}
        return
    reply = int(entry.settings["reply"])
    for prompts in _conversations(entry, reply):
        for turn, prompt in enumerate(prompts, 1):
            yield own | {"prompt": (prompt,), "max_new_tokens": (reply,), "turn": (turn,)}


def _conversations(entry: Workload, reply: int) -> Iterator[tuple[Prompt, ...]]:
    """Return the prompt of each turn, for each conversation.

    All turns of a conversation have one label. The length of a prompt is that of the whole history.
    """
    if file := str(entry.settings["file"]):
        prompts = Prompt.of_conversations(file, read_conversations(Path(file)))
        yield from ((prompt,) * turns for prompt, turns in prompts)
        return
    turns, user = (int(entry.settings[name]) for name in ("turns", "user"))
    lengths = (turn * (user + reply) + user for turn in range(turns))
    yield tuple(Prompt(label=f"user:{user}", tokens=length) for length in lengths)
