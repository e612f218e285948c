"""GPT-2, GPT-NeoX, OPT and Falcon: layer norms with biases and an MLP without a gate."""

from __future__ import annotations

from kvbench.theory.families.kinds import FULL, SLIDING, by_default, layer_kinds, window_of
from kvbench.theory.fields import Defaults, Fields
from kvbench.theory.layers import Attention, Body, Layer, Linear, Mlp

__all__ = ["FALCON", "GPT2", "GPT_NEOX", "OPT", "falcon", "gpt2", "gpt_neox", "opt"]

GPT2: Defaults = {
    "vocab_size": 50257,
    "num_attention_heads": 12,
    "intermediate_size": None,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
GPT_NEOX: Defaults = {
    "vocab_size": 50432,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "attention_bias": True,
    "tie_word_embeddings": False,
}
OPT: Defaults = {
    "vocab_size": 50272,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": None,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "tie_word_embeddings": True,
}
FALCON: Defaults = {
    "vocab_size": 65024,
    "num_attention_heads": 71,
    "num_key_value_heads": None,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "num_ln_in_parallel_attn": None,
    "intermediate_size": None,
    "tie_word_embeddings": True,
}


def gpt2(fields: Fields) -> Body:
    """Read GPT-2: a table of positions, biases everywhere."""
    fields.must_be_unset("add_cross_attention")
    hidden, positions = fields.integer("hidden_size"), fields.integer("max_position_embeddings")
    width = fields.optional("intermediate_size") or 4 * hidden
    # Two norms per layer and one at the end, each with a scale and a shift.
    layers = _layers(fields, Mlp(hidden, width, gated=False, bias=True), True, 2 * 2 * hidden)
    return _body(fields, layers, 2 * hidden, positions * hidden)


def gpt_neox(fields: Fields) -> Body:
    """Read GPT-NeoX and Pythia: rotated positions, biases."""
    hidden, width = fields.integer("hidden_size"), fields.integer("intermediate_size")
    mlp = Mlp(hidden, width, gated=False, bias=True)
    layers = _layers(fields, mlp, fields.flag("attention_bias"), 2 * 2 * hidden)
    return _body(fields, layers, 2 * hidden)


def opt(fields: Fields) -> Body:
    """Read OPT: a table with two extra positions, and embeddings with their own width."""
    hidden, bias = fields.integer("hidden_size"), fields.flag("enable_bias")
    norm = 2 * hidden if fields.flag("layer_norm_elementwise_affine") else 0
    mlp = Mlp(hidden, fields.integer("intermediate_size"), gated=False, bias=bias)
    width = fields.optional("word_embed_proj_dim") or hidden
    adapters = (Linear(width, hidden), Linear(hidden, width)) if width != hidden else ()
    last = fields.flag("do_layer_norm_before") and not fields.flag("_remove_final_layer_norm")
    table = (fields.integer("max_position_embeddings") + 2) * hidden
    layers = _layers(fields, mlp, bias, 2 * norm)
    return _body(fields, layers, norm * last, table, width, adapters)


def falcon(fields: Fields) -> Body:
    """Read Falcon: one head of keys and values, or a few that are copied for each query head."""
    hidden, bias = fields.integer("hidden_size"), fields.flag("bias")
    width = fields.optional("intermediate_size") or 4 * hidden
    heads, new = fields.integer("num_attention_heads"), fields.flag("new_decoder_architecture")
    made = fields.optional("num_key_value_heads") or heads
    if not new:
        made = 1 if fields.flag("multi_query") else heads
    norms = fields.optional("num_ln_in_parallel_attn") or (2 if new else 1)
    two = norms == 2 or not fields.flag("parallel_attn")
    mlp = Mlp(hidden, width, gated=False, bias=bias)
    kept = heads if new else made
    layers = _layers(fields, mlp, bias, (4 if two else 2) * hidden, made, kept)
    return _body(fields, layers, 2 * hidden)


def _layers(
    fields: Fields, mlp: Mlp, bias: bool, norms: int, made: int = 0, kept: int = 0
) -> tuple[Layer, ...]:
    """Return layers with these heads of keys and values made and kept; 0 is one per query head."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = fields.share("hidden_size", by="num_attention_heads")
    made, kept = made or heads, kept or heads
    if heads % made:
        fields.refuse("num_kv_heads", f"{made}, which does not divide {heads} heads")
    return tuple(
        Layer(
            Attention(
                heads,
                kept,
                size,
                size,
                query=(Linear(hidden, hidden, bias),),
                key_value=(Linear(hidden, made * size, bias),) * 2,
                output=Linear(hidden, hidden, bias),
                window=window_of(fields, kind),
            ),
            mlp,
            norms,
        )
        for kind in layer_kinds(fields, by_default, (FULL, SLIDING))
    )


def _body(
    fields: Fields,
    layers: tuple[Layer, ...],
    other: int,
    positions: int = 0,
    width: int = 0,
    adapters: tuple[Linear, ...] = (),
) -> Body:
    hidden = fields.integer("hidden_size")
    return Body(
        fields.model_type,
        hidden,
        fields.integer("vocab_size"),
        layers,
        tied=fields.flag("tie_word_embeddings"),
        embedding_size=width or hidden,
        adapters=adapters,
        other_parameters=other,
        position_parameters=positions,
    )
