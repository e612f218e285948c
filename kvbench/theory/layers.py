"""The parts of a model, layer by layer: only shapes, from which bytes and FLOPs follow."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

__all__ = ["Attention", "Body", "Experts", "Kept", "Latent", "Layer", "Linear", "Mlp", "State"]


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix of `inputs` x `outputs`, with or without a bias of `outputs`."""

    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Number of weights, the bias included."""
        return self.inputs * self.outputs + self.bias * self.outputs

    @property
    def flops(self) -> int:
        """FLOPs for one row: `2 * inputs * outputs`, one multiply-add per weight."""
        return 2 * self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Latent:
    """What multi-head latent attention keeps in place of keys and values.

    Attributes:
        rank: size of the vector that keys and values are made from.
        rope_dim: size of the part of the key that carries the position and is the same in all
            heads.
        expand: makes the keys and values of all heads from the vector, again at each step and for
            all kept positions.
    """

    rank: int
    rope_dim: int
    expand: Linear


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one layer, to its own positions or to those of an encoder.

    Attributes:
        heads: heads of queries.
        kv_heads: heads of keys and values that are kept: 1 is multi-query attention, `heads`
            multi-head, and anything between them grouped-query.
        key_dim: size of one query and one key.
        value_dim: size of one value.
        query: the matrices that make the queries.
        key_value: the matrices that make what is kept.
        output: the matrix that joins the heads.
        window: positions that a query sees, itself included; null means all of them.
        latent: what is kept in place of keys and values, in multi-head latent attention.
        shared: whether it uses the keys and values of another layer and keeps none.
        other_parameters: norms, sinks and the like.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    query: tuple[Linear, ...]
    key_value: tuple[Linear, ...]
    output: Linear
    window: int | None = None
    latent: Latent | None = None
    shared: bool = False
    other_parameters: int = 0

    @property
    def kept(self) -> int:
        """Numbers that one position adds to the cache."""
        if self.shared:
            return 0
        if self.latent:
            return self.latent.rank + self.latent.rope_dim
        return self.kv_heads * (self.key_dim + self.value_dim)

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices that each new position passes through, except those of a `latent`."""
        return (*self.query, *self.key_value, self.output)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        expand = self.latent.expand.parameters if self.latent else 0
        return _parameters(*self.linears) + expand + self.other_parameters


@dataclass(frozen=True, slots=True)
class State:
    """A layer that keeps a state of constant size: linear attention, Mamba.

    Attributes:
        kind: which.
        conv: channels and width of the last inputs that are kept, in the model's dtype.
        recurrent: shape of the recurrent state of one sequence, in float32 whatever the dtype.
        linears: its matrices.
        other_parameters: norms, the convolution, decays and the like.
    """

    kind: Literal["gated delta net", "mamba", "mamba 2"]
    conv: tuple[int, int]
    recurrent: tuple[int, ...]
    linears: tuple[Linear, ...]
    other_parameters: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return _parameters(*self.linears) + self.other_parameters

    def kept_bytes(self, width: int) -> int:
        """Return the bytes of the state of one sequence in a dtype of `width` bytes.

        Source: a real cache of each kind in Transformers; its kernels return the recurrent state in
        float32.
        """
        return prod(self.conv) * width + prod(self.recurrent) * 4


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer of which only the kept numbers of one sequence are known.

    Attributes:
        kv_heads: heads of keys and values; 0 if a layer has none.
        key_dim: size of one key.
        value_dim: size of one value.
        other: additional numbers per position, such as the keys of an indexer.
        other_float32: those of them that are in float32 whatever the dtype.
        window: positions that a query sees, itself included; all of them where null.
        state: numbers of constant size in the model's dtype.
        state_float32: numbers of constant size that are in float32 whatever the dtype.
        cross: numbers that each position of an encoder adds.
    """

    kv_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    other: int = 0
    other_float32: int = 0
    window: int | None = None
    state: int = 0
    state_float32: int = 0
    cross: int = 0

    @property
    def kept(self) -> int:
        """Numbers that one position adds to the cache, in the model's dtype."""
        return self.kv_heads * (self.key_dim + self.value_dim) + self.other

    def kept_bytes(self, width: int) -> int:
        """Bytes of constant size of one sequence where the dtype has `width` bytes."""
        return self.state * width + self.state_float32 * 4

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Return no matrices: they are not known one by one."""
        return ()

    @property
    def parameters(self) -> int:
        """Return 0: the weights are known for the whole model alone."""
        return 0


@dataclass(frozen=True, slots=True)
class Mlp:
    """A feed-forward layer of `width`; a gated one has two matrices up and one down."""

    inputs: int
    width: int
    gated: bool
    bias: bool = False

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its matrices."""
        up = Linear(self.inputs, self.width, self.bias)
        return (up,) * (2 if self.gated else 1) + (Linear(self.width, self.inputs, self.bias),)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return _parameters(*self.linears)

    @property
    def flops(self) -> int:
        """FLOPs for one token."""
        return sum(linear.flops for linear in self.linears)


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts.

    Attributes:
        count: experts.
        per_token: experts multiplied with one token.
        expert: one of them.
        router: the matrix that chooses.
        shared: the expert that sees every token, if any.
        shared_gate: the matrix that weighs it, if any.
    """

    count: int
    per_token: int
    expert: Mlp
    router: Linear
    shared: Mlp | None = None
    shared_gate: Linear | None = None

    @property
    def parameters(self) -> int:
        """Number of weights of all experts."""
        parts = (self.router, self.shared, self.shared_gate)
        return self.count * self.expert.parameters + sum(part.parameters for part in parts if part)

    @property
    def flops(self) -> int:
        """FLOPs for one token, the same whichever experts are chosen."""
        parts = (self.router, self.shared, self.shared_gate)
        return self.per_token * self.expert.flops + sum(part.flops for part in parts if part)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        mixer: what mixes positions.
        mlp: what follows; null in a Mamba layer.
        norms: weights of its norms.
        cross: cross-attention, in the decoder of an encoder-decoder.
    """

    mixer: Attention | State | Kept
    mlp: Mlp | Experts | None
    norms: int
    cross: Attention | None = None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        parts = (self.mixer, self.mlp, self.cross)
        return self.norms + sum(part.parameters for part in parts if part)


@dataclass(frozen=True)
class Body:
    """A model: its layers and what surrounds them.

    Attributes:
        model_type: Transformers' name of the family.
        hidden_size: width of the residual stream.
        vocabulary: rows of the embedding and of the output matrix.
        layers: those of the decoder.
        tied: whether the output matrix is the embedding.
        embedding_size: width of the embedding.
        encoder: layers of the encoder, in an encoder-decoder.
        adapters: matrices between an embedding and a residual stream of different widths.
        other_parameters: final norms and the like.
        position_parameters: a learned table of positions, of which a step reads only its own rows.
        float32_weights: how many Transformers keeps in float32 when it loads a float16 checkpoint,
            because they would exceed float16's range.
        weights_unknown: why the weights cannot be counted, or null.
        flops_unknown: why the FLOPs cannot be counted, or null.
        max_positions: the positions that the model was made for; null where only its
            configuration says so.
    """

    model_type: str
    hidden_size: int
    vocabulary: int
    layers: tuple[Layer, ...]
    tied: bool
    embedding_size: int
    encoder: tuple[Layer, ...] = ()
    adapters: tuple[Linear, ...] = ()
    other_parameters: int = 0
    position_parameters: int = 0
    float32_weights: int = 0
    weights_unknown: str | None = None
    flops_unknown: str | None = None
    max_positions: int | None = None

    @property
    def head(self) -> Linear:
        """The matrix that makes the logits."""
        return Linear(self.embedding_size, self.vocabulary)


def _parameters(*linears: Linear) -> int:
    return sum(linear.parameters for linear in linears)
