"""Build the page of `kvbench inspect --format html`: strategies side by side, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kvbench.caches import strategy
from kvbench.records.inspection import Arm, Inspection, Shape
from kvbench.report.pages import own_text, render_page
from kvbench.report.units import flops_text, significant
from kvbench.report.walk import Act, Cell, acts_of, labels_of, token_label
from kvbench.version import __version__

__all__ = ["walk_page"]

_LEVELS = 4
"""Shades of each sign in the stripes of a key."""


def walk_page(inspections: Sequence[Inspection]) -> str:
    """Return the whole page of one or more inspections of the same generation.

    Without a script, and on paper, all steps are shown one below the other.
    """
    shown = inspections[0]
    arms = [shown.off, *(one.cached for one in inspections)]
    walks = [acts_of(arm, shown.first_positions) for arm in arms]
    stripes = _Stripes(walks)
    labels = labels_of(shown)
    steps = [
        _step(number, arms, walks, stripes, labels[: shown.first_positions + number + 1])
        for number in range(len(shown.off.steps))
    ]
    return render_page(
        "walk.html.j2",
        title=f"{shown.model}, with and without a KV cache",
        facts=_facts(shown),
        columns=max(len(act.cells) for walk in walks for act in walk),
        steps=steps,
        totals=[_total(one, arm) for one, arm in zip([shown, *inspections], arms, strict=True)],
        layer=shown.layer,
        numbers=stripes.count,
        notes=[
            *_partings(inspections),
            *dict.fromkeys(n for one in inspections for n in one.notes),
        ],
        # Last: all stripes are known now.
        css=own_text("walk.css", stripes.css),
        script=own_text("walk.js"),
        version=__version__,
    )


def _facts(shown: Inspection) -> str:
    rows = len(shown.prompt_ids)
    batch = f", {rows} sequences (the first is shown)" if rows > 1 else ""
    return (
        f"{shown.model} ({shown.weights} weights, {shown.dtype}, {shown.attention} attention) on "
        f"{shown.device}; prompt {shown.prompt}{batch}. Everything here was read from the model's "
        "tensors during generation."
    )


_Lane = tuple[str, str, list[tuple[int, Cell, str]]]


def _partings(inspections: Sequence[Inspection]) -> Iterator[str]:
    """Say from which step on a strategy's cells belong to a different text than the one shown."""
    for one in inspections:
        pairs = zip(one.off.steps, one.cached.steps, strict=True)
        parts = [n for n, (a, b) in enumerate(pairs, 1) if a.token_ids != b.token_ids]
        if parts and parts[0] < len(one.off.steps):
            yield (
                f"{one.cached.cache} produces a different token in step {parts[0]}. From then on, "
                "it continues its own text, and its cells show that text."
            )


@dataclass(frozen=True)
class _Panel:
    """What one strategy shows in one step."""

    name: str
    about: str
    act: Act
    lanes: list[_Lane]
    shapes: list[tuple[str, str]]
    bars: list[tuple[str, str, list[int]]]
    token: str
    same: bool


def _step(
    number: int,
    arms: Sequence[Arm],
    walks: Sequence[Sequence[Act]],
    stripes: _Stripes,
    labels: Sequence[str],
) -> dict[str, Any]:
    panels = [
        _panel(number, arm, walk, arms, stripes) for arm, walk in zip(arms, walks, strict=True)
    ]
    return {
        "number": number + 1,
        "phase": "prefill" if number == 0 else "decode",
        "labels": list(enumerate(labels[:-1])),
        "first": len(labels) - 1 - (number and 1),
        "new": labels[-1],
        "panels": panels,
    }


def _panel(
    number: int, arm: Arm, walk: Sequence[Act], arms: Sequence[Arm], stripes: _Stripes
) -> _Panel:
    act = walk[number]
    base = arms[0].steps[number]
    return _Panel(
        name=arm.cache,
        about=strategy(arm.cache).description.replace("`", ""),
        act=act,
        lanes=_lanes(act, stripes),
        shapes=_shapes(act),
        bars=_bars(number, arm, arms),
        token=token_label(act.step),
        same=act.step.token_ids == base.token_ids,
    )


_LANES = (
    ("computed now", "made", ("new", "again")),
    ("read from the cache", "read", ("read", "empty")),
    ("no longer kept", "gone", ("gone",)),
)


def _lanes(act: Act, stripes: _Stripes) -> list[_Lane]:
    """Return the lanes of cells; each cell has its place from 1, the same in all lanes."""
    found = []
    for title, name, kinds in _LANES:
        cells = [
            (place, cell, stripes.name(cell))
            for place, cell in enumerate(act.cells, 1)
            if cell.kind in kinds
        ]
        if cells or name != "gone":
            found.append((title, name, cells))
    return found


def _shapes(act: Act) -> list[tuple[str, str]]:
    step = act.step
    rows = [
        ("input ids", _shape(step.input_ids)),
        ("Q", _shape(step.query)),
        ("K made now", _shape(step.made_keys)),
        ("K attended to", _shape(step.keys)),
        ("cache", _shape(step.cache_shape) if step.cache_shape else _several(act)),
    ]
    return rows


def _shape(shape: Shape | None) -> str:
    return "-" if shape is None else str(list(shape))


def _several(act: Act) -> str:
    """Return what layers that differ keep, or a cache in another form than keys and values."""
    kinds = [f"{one.count} x K {_shape(one.keys)}" for one in act.step.cache]
    kinds = kinds or [f"{one.count} x {_shape(one.shape)} {one.dtype}" for one in act.step.kept]
    return "; ".join(kinds) or ("a pool" if act.step.cache_bytes else "none")


def _bars(number: int, arm: Arm, arms: Sequence[Arm]) -> list[tuple[str, str, list[int]]]:
    """Return the bars of each step, in percent of the largest of all strategies."""
    step = arm.steps[number]
    work = [[one.flops or 0 for one in other.steps] for other in arms]
    kept = [[one.cache_bytes for one in other.steps] for other in arms]
    mine = next(place for place, other in enumerate(arms) if other is arm)
    return [
        ("Work", f"{flops_text(step.flops)}FLOP" if step.flops else "unknown", _shares(work, mine)),
        ("Cache", _bytes(step.cache_bytes), _shares(kept, mine)),
    ]


def _shares(rows: Sequence[Sequence[int]], mine: int) -> list[int]:
    largest = max(value for row in rows for value in row) or 1
    return [round(100 * value / largest) for value in rows[mine]]


def _bytes(value: int) -> str:
    return f"{value:,} bytes"


def _total(inspection: Inspection, arm: Arm) -> dict[str, Any]:
    total, off = inspection.totals(arm), inspection.totals(inspection.off)
    less = significant(off.flops / total.flops) if off.flops and total.flops else "-"
    return {
        "name": arm.cache,
        "positions": f"{total.positions:,}",
        "again": f"{total.made_again:,}",
        "flops": flops_text(total.flops),
        "less": less,
        "bytes": f"{total.cache_bytes:,}",
        "same": "yes" if arm.token_ids == inspection.off.token_ids else "no",
    }


class _Stripes:
    """The colors of keys: each distinct key is a class with a gradient, declared once."""

    def __init__(self, walks: Sequence[Sequence[Act]]) -> None:
        cells = [cell for walk in walks for act in walk for cell in act.cells]
        self.count = max((len(cell.numbers) for cell in cells), default=0)
        # A few numbers may be far larger than the rest; they take the darkest shade too.
        sizes = sorted(abs(number) for cell in cells for number in cell.numbers)
        self._largest = sizes[int(0.95 * (len(sizes) - 1))] if sizes else 1.0
        self._names: dict[tuple[int, ...], str] = {}

    def name(self, cell: Cell) -> str:
        """Return the class of a cell's key; empty if it has none."""
        if not cell.numbers:
            return ""
        levels = tuple(self._level(number) for number in cell.numbers)
        return self._names.setdefault(levels, f"k{len(self._names)}")

    def _level(self, number: float) -> int:
        share = number / (self._largest or 1.0)
        return round(_LEVELS * max(-1.0, min(1.0, share)))

    @property
    def css(self) -> str:
        """The rules of all classes."""
        return "".join(f"\n.{name} {{ {self._rule(levels)} }}" for levels, name in self._all())

    def _all(self) -> list[tuple[tuple[int, ...], str]]:
        return list(self._names.items())

    def _rule(self, levels: Sequence[int]) -> str:
        height = 100 / len(levels)
        stops = (
            f"var(--k{level}) {height * place:.4g}% {height * (place + 1):.4g}%"
            for place, level in enumerate(levels)
        )
        return f"--stripes: linear-gradient({', '.join(stops)});"
