"""Inspection: what a few steps of a generation did, with a cache and without, shape by shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kvbench.plan.axes import ModelAxes

__all__ = ["Arm", "CacheLayers", "Inspection", "Shape", "Step", "Totals", "as_json"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayers:
    """Layers of a cache that look alike after a step.

    Attributes:
        count: how many layers.
        keys: `[batch, kv_heads, positions, head_dim]`, or null where a layer keeps none.
        values: the same.
        states: shapes of what does not grow: the states of linear attention, Mamba, convolutions.
        cross: whether they are of cross-attention and hold the encoder's positions.
    """

    count: int
    keys: Shape | None
    values: Shape | None
    states: tuple[Shape, ...] = ()
    cross: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One forward of the model. What could not be seen is null.

    Attributes:
        input_ids: `[batch, positions fed]`.
        query: `[batch, heads, positions fed, head_dim]`, as it enters attention in the layer that
            is looked at, like all shapes to `values`.
        made_keys: keys that this step made of its input. With a cache they are what the cache was
            handed, without one what attention sees.
        made_values: the same of the values.
        keys: `[batch, kv_heads, positions, head_dim]`, all that the queries meet.
        values: the same.
        cache: the layers of the cache after the step, those that look alike together; empty
            without a cache.
        cache_bytes: exact bytes of its tensors.
        flops_counted: what torch counts of this step.
        flops_theory: what follows from the configuration.
        token_ids: the new token of each sequence.
        texts: the same as text, null without a tokenizer.
    """

    input_ids: Shape
    query: Shape | None
    made_keys: Shape | None
    made_values: Shape | None
    keys: Shape | None
    values: Shape | None
    cache: tuple[CacheLayers, ...]
    cache_bytes: int
    flops_counted: int | None
    flops_theory: int | None
    token_ids: tuple[int, ...]
    texts: tuple[str, ...] | None

    @property
    def positions(self) -> int:
        """Positions of each sequence that went through the model."""
        return self.input_ids[-1]

    @property
    def flops(self) -> int | None:
        """FLOPs: counted, else from theory, else null."""
        return self.flops_theory if self.flops_counted is None else self.flops_counted

    @property
    def cache_shape(self) -> Shape | None:
        """`[layers, 2, batch, kv_heads, positions, head_dim]` where all layers keep the same."""
        if len(self.cache) != 1:
            return None
        only = self.cache[0]
        alike = only.keys is not None and only.keys == only.values and not only.states
        return (only.count, 2, *(only.keys or ())) if alike else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the steps of one arm come to.

    Attributes:
        positions: positions fed, of each sequence.
        made_again: those among them that had gone through the model before.
        flops: null where a step has none.
        cache_bytes: after the last step.
    """

    positions: int
    made_again: int
    flops: int | None
    cache_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One generation, step by step; `cache` is the name of its strategy."""

    cache: str
    steps: tuple[Step, ...]

    @property
    def token_ids(self) -> tuple[tuple[int, ...], ...]:
        """The new tokens, a row per sequence."""
        return tuple(zip(*(step.token_ids for step in self.steps), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(ModelAxes):
    """Both arms of a generation.

    Attributes:
        attention: the implementation that was used.
        prompt: its label.
        prompt_ids: a row per sequence, padding included.
        first_positions: positions that the first step feeds: those of the prompt, or the one start
            position of a decoder that has an encoder.
        layer: the layer that is looked at, from 0.
        layers: how many the model has.
        off: without a cache.
        cached: with one.
        largest_difference: between the keys and values that attention sees in the last step of
            either arm, over the root of their mean square; null where they cannot be compared.
        notes: sentences about what is seen, or why something is not.
    """

    dtype_bytes: int
    prompt: str
    prompt_ids: tuple[tuple[int, ...], ...]
    first_positions: int
    layer: int
    layers: int
    off: Arm
    cached: Arm
    largest_difference: float | None
    notes: tuple[str, ...]

    @property
    def same_tokens(self) -> bool:
        """Whether both arms made the same tokens in all sequences."""
        return self.off.token_ids == self.cached.token_ids

    @property
    def distinct_positions(self) -> int:
        """Positions of each sequence that had to go through the model at least once."""
        return self.first_positions + len(self.off.steps) - 1

    def totals(self, arm: Arm) -> Totals:
        """What the steps of one of its arms come to."""
        positions = sum(step.positions for step in arm.steps)
        flops = [step.flops for step in arm.steps if step.flops is not None]
        return Totals(
            positions=positions,
            made_again=positions - self.distinct_positions,
            flops=sum(flops) if len(flops) == len(arm.steps) else None,
            cache_bytes=arm.steps[-1].cache_bytes,
        )


def as_json(inspection: Inspection) -> dict[str, Any]:
    """All fields, and what follows from them: cache shapes, totals, whether the tokens agree."""
    known = asdict(inspection)
    for name in ("off", "cached"):
        arm: Arm = getattr(inspection, name)
        steps: list[Mapping[str, Any]] = known[name]["steps"]
        known[name]["steps"] = [
            {**fields, "cache_shape": step.cache_shape}
            for fields, step in zip(steps, arm.steps, strict=True)
        ]
        known[name]["totals"] = asdict(inspection.totals(arm))
    return {**known, "same_tokens": inspection.same_tokens}
