"""Decoders built like Llama: grouped heads, rotated positions, RMS norms, a gated MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from kvbench.theory.families.kinds import (
    CHUNKED,
    FULL,
    SLIDING,
    Pattern,
    alternating,
    by_default,
    every,
    from_layer,
    if_used,
    layer_kinds,
    rope_layers,
    window_of,
)
from kvbench.theory.families.mixtures import (
    MakeMlp,
    gated,
    gpt_oss_experts,
    llama4_experts,
    mixtral_experts,
    no_mlp,
    qwen_experts,
)
from kvbench.theory.fields import Defaults, Fields
from kvbench.theory.layers import Attention, Body, Layer, Linear

__all__ = ["LLAMAS", "Llama", "attention", "llama"]

Bias = bool | str
"""Whether there is one, or the field that says so."""


@dataclass(frozen=True)
class Llama:
    """How a family differs from Llama.

    Attributes:
        defaults: Transformers' defaults of missing fields.
        in_bias: bias of the matrices of queries, keys and values.
        out_bias: bias of the matrix after attention.
        norms: norms per layer, each with the width of the residual stream.
        head_norms: norms of queries and keys: over each head, over all of them, or none.
        query_factor: 2 if the query's matrix also makes a gate.
        sinks: whether each head has its own sink.
        pattern: the kinds of layers, if they are not listed.
        mlp: makes the MLP of a layer.
        float32_norms: whether the norms stay in float32 in a float16 model.
        unset: fields that must be unset, since they change the model.
        unknown: what is not counted in weights and FLOPs.
    """

    defaults: Defaults
    in_bias: Bias = "attention_bias"
    out_bias: Bias = "attention_bias"
    norms: int = 2
    head_norms: Literal["each", "all", "none"] = "none"
    query_factor: int = 1
    sinks: bool = False
    pattern: Pattern = by_default
    mlp: MakeMlp = gated
    float32_norms: bool = False
    unset: tuple[str, ...] = ()
    unknown: str | None = None


def llama(family: Llama) -> Callable[[Fields], Body]:
    """Return the reader of a family."""

    def read(fields: Fields) -> Body:
        fields.must_be_unset(*family.unset)
        hidden = fields.integer("hidden_size")
        kinds = layer_kinds(fields, family.pattern, (FULL, SLIDING, CHUNKED))
        own = len(kinds) - (fields.optional("num_kv_shared_layers", least=0) or 0)
        if own <= 0:
            fields.refuse("num_kv_shared_layers", f"too many for {len(kinds)} layers")
        layers = tuple(
            Layer(
                attention(family, fields, kind, shared=index >= own),
                family.mlp(fields, index),
                family.norms * hidden,
            )
            for index, kind in enumerate(kinds)
        )
        norms = hidden + sum(layer.norms for layer in layers)
        return Body(
            fields.model_type,
            hidden,
            fields.integer("vocab_size"),
            layers,
            tied=fields.flag("tie_word_embeddings"),
            embedding_size=hidden,
            other_parameters=hidden,  # The final norm.
            float32_weights=norms if family.float32_norms else 0,
            weights_unknown=family.unknown,
            flops_unknown=family.unknown,
        )

    return read


def attention(family: Llama, fields: Fields, kind: str, shared: bool = False) -> Attention:
    """Return the attention of one layer."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads = fields.optional("num_key_value_heads") or heads
    if heads % kv_heads:
        fields.refuse("num_key_value_heads", f"{kv_heads}, which does not divide {heads} heads")
    size = fields.optional("head_dim") or fields.share("hidden_size", by="num_attention_heads")
    into, out = (_bias(fields, bias) for bias in (family.in_bias, family.out_bias))
    normed = {"each": 2 * size, "all": (heads + kv_heads) * size, "none": 0}[family.head_norms]
    return Attention(
        heads,
        kv_heads,
        size,
        size,
        query=(Linear(hidden, family.query_factor * heads * size, into),),
        key_value=(Linear(hidden, kv_heads * size, into),) * 2,
        output=Linear(heads * size, hidden, out),
        window=window_of(fields, kind),
        shared=shared,
        other_parameters=normed + heads * family.sinks,
    )


def _bias(fields: Fields, bias: Bias) -> bool:
    return fields.flag(bias) if isinstance(bias, str) else bias


def _defaults(
    vocabulary: int, width: int, heads: int, kv_heads: int | None, tied: bool = False, **more: Any
) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
    } | more


_QWEN_WINDOW: dict[str, Any] = {"use_sliding_window": False, "sliding_window": 4096}
_BIDIRECTIONAL = ("use_bidirectional_attention",)

LLAMAS: dict[str, Llama] = {
    "llama": Llama(_defaults(32000, 11008, 32, None)),
    "mistral": Llama(_defaults(32000, 14336, 32, 8, sliding_window=4096), False, False),
    "qwen2": Llama(
        _defaults(151936, 22016, 32, 32) | _QWEN_WINDOW | {"max_window_layers": 28},
        in_bias=True,
        out_bias=False,
        pattern=from_layer,
    ),
    "qwen3": Llama(
        _defaults(151936, 22016, 32, 32, head_dim=128) | _QWEN_WINDOW | {"max_window_layers": 28},
        head_norms="each",
        pattern=from_layer,
    ),
    "qwen3_moe": Llama(
        _defaults(151936, 6144, 32, 4)
        | _QWEN_WINDOW
        | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
        | {"decoder_sparse_step": 1},
        head_norms="each",
        pattern=if_used,
        mlp=qwen_experts,
    ),
    "gemma": Llama(_defaults(256000, 24576, 16, 16, True, head_dim=256), unset=_BIDIRECTIONAL),
    "gemma2": Llama(
        _defaults(256000, 9216, 8, 4, True, head_dim=256, sliding_window=4096),
        norms=4,
        pattern=alternating,
        unset=_BIDIRECTIONAL,
    ),
    "gemma3_text": Llama(
        _defaults(262208, 9216, 8, 4, True, head_dim=256, sliding_window=4096),
        norms=4,
        head_norms="each",
        pattern=every("sliding_window_pattern", 6, SLIDING),
        unset=_BIDIRECTIONAL,
    ),
    "gemma3n_text": Llama(
        _defaults(262400, 16384, 8, 2, True, head_dim=256, sliding_window=512)
        | {"num_kv_shared_layers": 15},
        norms=4,
        head_norms="each",
        pattern=every(None, 5, SLIDING),
        mlp=no_mlp,
        unset=_BIDIRECTIONAL,
        unknown="AltUp, LAuReL and the embeddings of each layer are not supported",
    ),
    "phi3": Llama(_defaults(32064, 8192, 32, None, sliding_window=None), False, False),
    "smollm3": Llama(
        _defaults(128256, 11008, 16, 4, True, use_sliding_window=False),
        pattern=if_used,
        unset=("use_sliding_window",),
    ),
    "olmo2": Llama(_defaults(50304, 11008, 32, None), head_norms="all"),
    "mixtral": Llama(
        _defaults(32000, 14336, 32, 8, num_experts=8, num_experts_per_tok=2),
        False,
        False,
        mlp=mixtral_experts,
    ),
    "gpt_oss": Llama(
        _defaults(201088, 2880, 64, 8, head_dim=64, sliding_window=128, attention_bias=True)
        | {"num_experts": 128, "num_experts_per_tok": 4},
        sinks=True,
        pattern=alternating,
        mlp=gpt_oss_experts,
        float32_norms=True,
    ),
    "llama4_text": Llama(
        _defaults(202048, 8192, 40, 8, head_dim=128, attention_chunk_size=8192)
        | {"num_experts": 16, "num_experts_per_tok": 1, "intermediate_size_mlp": 16384}
        | {"interleave_moe_layer_step": 1, "no_rope_layer_interval": 4},
        pattern=rope_layers,
        mlp=llama4_experts,
    ),
}
"""The families by Transformers' name."""
