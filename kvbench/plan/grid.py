"""The grid of a plan: which values of the axes make a case together, for each workload."""

from __future__ import annotations

import itertools
import math
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
    # Counted, not built: a range is soon too long to be listed.
    count = sum(map(_count, grids))
    if most is not None and count > most:
        raise UserError(
            f"The grid has {count:,} cases, more than {most:,}: pass --yes to run it anyway.",
            kind="too_many_cases",
            count=count,
        )
    if not count:
        raise UserError(
            "No cases left: for conversations, cache off requires reuse none, and every other "
            "cache requires reuse turn or conversation.",
            kind="no_cases",
        )
    points = (
        dict(zip(grid, point, strict=True))
        for grid in grids
        for point in itertools.product(*grid.values())
    )
    return tuple(point for point in points if _goes_together(point))


def _count(grid: Values) -> int:
    """Return how many points a grid has."""
    pairs = itertools.product(grid["workload"], grid["cache"], grid["reuse"])
    names = ("workload", "cache", "reuse")
    together = sum(_goes_together(dict(zip(names, pair, strict=True))) for pair in pairs)
    return together * math.prod(len(grid[name]) for name in grid if name not in names)


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
