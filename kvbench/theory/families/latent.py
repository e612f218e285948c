"""DeepSeek-V3: multi-head latent attention and a mixture of experts."""

from __future__ import annotations

from kvbench.theory.families.kinds import FULL, by_default, layer_kinds
from kvbench.theory.families.mixtures import deepseek_experts
from kvbench.theory.fields import Defaults, Fields
from kvbench.theory.layers import Attention, Body, Latent, Layer, Linear

__all__ = ["DEEPSEEK_V3", "deepseek_v3"]

DEEPSEEK_V3: Defaults = {
    "vocab_size": 129280,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "attention_bias": False,
    "tie_word_embeddings": False,
}


def deepseek_v3(fields: Fields) -> Body:
    """Read DeepSeek-V3 and R1, without the multi-token prediction layers: they are not loaded.

    The cache holds the compressed vector and the rotated part of the key, `[batch, 1, length,
    kv_lora_rank]` and `[batch, 1, length, qk_rope_head_dim]`. Source: `DeepseekV3Attention` in
    Transformers 5.23.
    """
    hidden = fields.integer("hidden_size")
    kinds = layer_kinds(fields, by_default, (FULL,))
    one = _attention(fields, hidden)
    layers = tuple(
        Layer(one, deepseek_experts(fields, index), 2 * hidden) for index in range(len(kinds))
    )
    return Body(
        fields.model_type,
        hidden,
        fields.integer("vocab_size"),
        layers,
        tied=fields.flag("tie_word_embeddings"),
        embedding_size=hidden,
        other_parameters=hidden,
    )


def _attention(fields: Fields, hidden: int) -> Attention:
    heads, rank = fields.integer("num_attention_heads"), fields.integer("kv_lora_rank")
    rope, plain = fields.integer("qk_rope_head_dim"), fields.integer("qk_nope_head_dim")
    value, bias = fields.integer("v_head_dim"), fields.flag("attention_bias")
    low = fields.optional("q_lora_rank")
    queries = heads * (plain + rope)
    return Attention(
        heads,
        heads,
        plain + rope,
        value,
        query=(Linear(hidden, low, bias), Linear(low, queries))
        if low
        else (Linear(hidden, queries),),
        key_value=(Linear(hidden, rank + rope, bias),),
        output=Linear(heads * value, hidden, bias),
        latent=Latent(rank, rope, Linear(rank, heads * (plain + value))),
        other_parameters=rank + (low or 0),  # Norms of the compressed vectors.
    )
