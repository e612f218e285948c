"""Inspections whose keys are known, for the tests of the page that steps through them."""

from __future__ import annotations

import dataclasses

from kvbench.records.inspection import Arm, Inspection, Step
from tests.fakes import make_inspection

__all__ = ["dynamic", "static", "window"]


def key(position: int) -> tuple[float, ...]:
    """Return numbers that only this position has."""
    return tuple(round((position + 1) * (-1) ** place / (place + 1), 3) for place in range(8))


def _walked(arm: Arm, kept: list[tuple[int | None, ...]], name: str | None = None) -> Arm:
    def step(one: Step, positions: tuple[int | None, ...]) -> Step:
        numbers = tuple((0.0,) * 8 if at is None else key(at) for at in positions)
        return dataclasses.replace(one, key_positions=positions, key_numbers=numbers)

    steps = tuple(step(one, positions) for one, positions in zip(arm.steps, kept, strict=True))
    return Arm(cache=name or arm.cache, steps=steps)


def dynamic(**fields: object) -> Inspection:
    """Three steps after a prompt of four tokens; the cache keeps all positions."""
    plain = make_inspection(**fields)
    kept: list[tuple[int | None, ...]] = [tuple(range(length)) for length in (4, 5, 6)]
    return dataclasses.replace(
        plain, off=_walked(plain.off, kept), cached=_walked(plain.cached, kept)
    )


def window() -> Inspection:
    """The same with a cache that keeps the last three positions."""
    plain = dynamic()
    cached = _walked(plain.cached, [(0, 1, 2, 3), (2, 3, 4), (3, 4, 5)], "window:size=3")
    return dataclasses.replace(plain, cached=cached)


def static() -> Inspection:
    """The same with a buffer of six positions from the start."""
    plain = dynamic()
    kept = [(0, 1, 2, 3, None, None), (0, 1, 2, 3, 4, None), (0, 1, 2, 3, 4, 5)]
    return dataclasses.replace(plain, cached=_walked(plain.cached, kept, "static"))
