"""The grid of a plan: which values of the axes make a case together, for each workload."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Part:
    """A part of a grid: a conversation, or everything without turns.

    Attributes:
        turns: how many turns it has; each is a grid of its own.
        grid: returns the values of all axes at a turn, counted from 1.
    """

    turns: int
    grid: Callable[[int], Values]


def points_of(values: Values, most: int | None = None) -> tuple[dict[str, Any], ...]:
    """Return the points of a grid, each with a value of every axis.

    Args:
        values: the values of each axis that a plan has a key for, the outermost axis first.
        most: how many points are allowed; None for any number.

    Raises:
        UserError: there are more, or none is left.
    """
    parts = [part for name in values["workload"] for part in _parts(values, workload(name))]
    # Counted, not built: a range, or a conversation, is soon too long to be listed.
    count = sum(part.turns * _count(part.grid(1)) for part in parts)
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
        for part in parts
        for grid in map(part.grid, range(1, part.turns + 1))
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


def _parts(values: Values, entry: Workload) -> list[_Part]:
    """Return the parts of a workload: its conversations, or the only one without turns."""
    own = {**values, "workload": (entry.name,)}
    if not entry.has_turns:
        own |= {name: (axis.legacy,) for name, axis in AXES.items() if axis.of_turns}
        return [_Part(1, lambda _turn: own)]
    reply = int(entry.settings["reply"])

    def grid(prompt: Callable[[int], Prompt], turn: int) -> Values:
        return own | {"prompt": (prompt(turn),), "max_new_tokens": (reply,), "turn": (turn,)}

    return [
        _Part(turns, functools.partial(grid, prompt))
        for turns, prompt in _conversations(entry, reply)
    ]


def _conversations(entry: Workload, reply: int) -> list[tuple[int, Callable[[int], Prompt]]]:
    """Return the number of turns of each conversation, and the prompt of a turn.

    All turns of a conversation have one label. The length of a prompt is that of the whole history.
    """
    if file := str(entry.settings["file"]):
        found = Prompt.of_conversations(file, read_conversations(Path(file)))
        return [(turns, functools.partial(_same, prompt)) for prompt, turns in found]
    user = int(entry.settings["user"])

    def history(turn: int) -> Prompt:
        return Prompt(label=f"user:{user}", tokens=(turn - 1) * (user + reply) + user)

    return [(int(entry.settings["turns"]), history)]


def _same(prompt: Prompt, _turn: int) -> Prompt:
    return prompt
