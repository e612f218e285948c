"""The record of a few steps of a generation, with and without a cache, shape by shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kvbench.plan.axes import ModelAxes

__all__ = ["Arm", "CacheLayers", "Inspection", "KeptTensors", "Shape", "Step", "Totals", "as_json"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayers:
    """Layers of a cache with the same shapes after a step.

    Attributes:
        count: how many layers.
        keys: `[batch, kv_heads, positions, head_dim]`, or null if a layer keeps none.
        values: the same.
        states: shapes of states that do not grow: linear attention, Mamba, convolutions.
        cross: whether they belong to cross-attention and hold the encoder's positions.
    """

    count: int
    keys: Shape | None
    values: Shape | None
    states: tuple[Shape, ...] = ()
    cross: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTensors:
    """Tensors of one layer of a cache that are alike.

    Attributes:
        count: how many.
        shape: of each.
        dtype: of each.
    """

    count: int
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One forward of the model. What was not observed is null.

    Attributes:
        input_ids: `[batch, positions fed]`.
        query: `[batch, heads, positions fed, head_dim]`, as it enters attention in the inspected
            layer, like all shapes down to `values`.
        made_keys: keys that this step made from its input. With a cache they are what the cache
            received; without one, what attention sees.
        made_values: the same for the values.
        keys: `[batch, kv_heads, positions, head_dim]`, everything that the queries attend to.
        values: the same.
        cache: the layers of the cache after the step, grouped by shape; empty without a cache.
        cache_bytes: exact bytes of its tensors.
        flops_counted: FLOPs of this step as counted by torch.
        flops_theory: FLOPs derived from the configuration.
        token_ids: the new token of each sequence.
        texts: the same as text, null without a tokenizer.
        key_positions: the position of each key in `keys`, found by comparing the keys of the first
            sequence with those that the steps made; null for a slot that holds no key. Null as a
            whole if some key is not recognized.
        key_numbers: the first numbers of each key in `keys`, of the first sequence and its first
            head.
        kept: the tensors that the cache keeps for the inspected layer, whatever its form.
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
    key_positions: tuple[int | None, ...] | None = None
    key_numbers: tuple[tuple[float, ...], ...] = ()
    kept: tuple[KeptTensors, ...] = ()

    @property
    def positions(self) -> int:
        """Positions of each sequence that passed through the model."""
        return self.input_ids[-1]

    @property
    def flops(self) -> int | None:
        """FLOPs: counted, else from theory, else null."""
        return self.flops_theory if self.flops_counted is None else self.flops_counted

    @property
    def cache_shape(self) -> Shape | None:
        """`[layers, 2, batch, kv_heads, positions, head_dim]` if all layers keep the same."""
        if len(self.cache) != 1:
            return None
        only = self.cache[0]
        alike = only.keys is not None and only.keys == only.values and not only.states
        return (only.count, 2, *(only.keys or ())) if alike else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The totals of the steps of one strategy.

    Attributes:
        positions: positions fed, of each sequence.
        made_again: those among them that had passed through the model before.
        flops: null if a step has none.
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
        """The new tokens, one row per sequence."""
        return tuple(zip(*(step.token_ids for step in self.steps), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(ModelAxes):
    """Both generations, with and without a cache.

    Attributes:
        attention: the implementation that was used.
        prompt: its label.
        prompt_ids: a row per sequence, padding included.
        prompt_texts: the first row as texts, null without a tokenizer.
        first_positions: positions that the first step feeds: those of the prompt, or the one start
            position of a decoder that has an encoder.
        layer: the inspected layer, from 0.
        layers: how many layers the model has.
        off: without a cache.
        cached: with one.
        largest_difference: the difference between the keys and values that attention sees in the
            last step with and without the cache, over their RMS; null if they cannot be compared.
        notes: sentences about the observations, or why something was not observed.
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
    prompt_texts: tuple[str, ...] | None = None

    @property
    def same_tokens(self) -> bool:
        """Whether both generations made the same tokens in all sequences."""
        return self.off.token_ids == self.cached.token_ids

    @property
    def distinct_positions(self) -> int:
        """Positions of each sequence that had to pass through the model at least once."""
        return self.first_positions + len(self.off.steps) - 1

    def totals(self, arm: Arm) -> Totals:
        """Return the totals of the steps of one generation."""
        positions = sum(step.positions for step in arm.steps)
        flops = [step.flops for step in arm.steps if step.flops is not None]
        return Totals(
            positions=positions,
            made_again=positions - self.distinct_positions,
            flops=sum(flops) if len(flops) == len(arm.steps) else None,
            cache_bytes=arm.steps[-1].cache_bytes,
        )


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Return all fields, and derived values: cache shapes, totals, whether the tokens agree."""
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
