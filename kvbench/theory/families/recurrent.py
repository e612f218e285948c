"""Models with a state of constant size: Mamba, Mamba 2 and Qwen3-Next."""

from __future__ import annotations

import math

from kvbench.theory.families.kinds import FULL, LINEAR, every, layer_kinds
from kvbench.theory.families.llama import Llama, attention
from kvbench.theory.families.mixtures import qwen_experts
from kvbench.theory.fields import Defaults, Fields
from kvbench.theory.layers import Body, Layer, Linear, State

__all__ = ["MAMBA", "MAMBA2", "QWEN3_NEXT", "mamba", "mamba2", "qwen3_next"]

MAMBA: Defaults = {
    "vocab_size": 50280,
    "state_size": 16,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}
MAMBA2: Defaults = {
    "vocab_size": 32768,
    "num_heads": 128,
    "head_dim": 64,
    "state_size": 128,
    "expand": 2,
    "n_groups": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "tie_word_embeddings": False,
}
QWEN3_NEXT: Defaults = {
    "vocab_size": 151936,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "attention_bias": False,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "tie_word_embeddings": False,
}

_ATTENTION = Llama(QWEN3_NEXT, head_norms="each", query_factor=2)


def mamba(fields: Fields) -> Body:
    """Read Mamba: all layers keep a state, `[batch, inner, state_size]`."""
    hidden, states = fields.integer("hidden_size"), fields.integer("state_size")
    inner, kernel = fields.integer("expand") * hidden, fields.integer("conv_kernel")
    auto = fields.get("time_step_rank") == "auto"
    rank = math.ceil(hidden / 16) if auto else fields.integer("time_step_rank")
    bias = fields.flag("use_bias")
    linears = (
        Linear(hidden, 2 * inner, bias),
        Linear(inner, rank + 2 * states),
        Linear(rank, inner, bias=True),
        Linear(inner, hidden, bias),
    )
    # The convolution, a decay for each number of the state, and a skip connection.
    other = inner * (kernel + fields.flag("use_conv_bias")) + inner * states + inner
    return _states(fields, State("mamba", (inner, kernel), (inner, states), linears, other))


def mamba2(fields: Fields) -> Body:
    """Read Mamba 2: all layers keep a state, `[batch, heads, head_dim, state_size]`."""
    hidden, states = fields.integer("hidden_size"), fields.integer("state_size")
    heads, size = fields.integer("num_heads"), fields.integer("head_dim")
    inner, kernel = fields.integer("expand") * hidden, fields.integer("conv_kernel")
    if inner != heads * size:
        fields.refuse("num_heads", f"{heads} of {size}, which is not expand * hidden_size")
    channels = inner + 2 * fields.integer("n_groups") * states
    bias = fields.flag("use_bias")
    linears = (Linear(hidden, inner + channels + heads, bias), Linear(inner, hidden, bias))
    # The convolution; step, decay and skip connection for each head; a norm.
    other = channels * (kernel + fields.flag("use_conv_bias")) + 3 * heads + inner
    shape = (heads, size, states)
    return _states(fields, State("mamba 2", (channels, kernel), shape, linears, other))


def qwen3_next(fields: Fields) -> Body:
    """Read Qwen3-Next: three layers with a state, then one of full attention with gated heads."""
    hidden = fields.integer("hidden_size")
    pattern = every("full_attention_interval", 4, LINEAR)
    full, state = attention(_ATTENTION, fields, FULL), _delta_net(fields, hidden)
    kinds = layer_kinds(fields, pattern, (FULL, LINEAR))
    layers = tuple(
        Layer(full if kind == FULL else state, qwen_experts(fields, index), 2 * hidden)
        for index, kind in enumerate(kinds)
    )
    return _body(fields, layers, state if LINEAR in kinds else None)


def _delta_net(fields: Fields, hidden: int) -> State:
    key_heads, key = fields.integer("linear_num_key_heads"), fields.integer("linear_key_head_dim")
    heads, size = fields.integer("linear_num_value_heads"), fields.integer("linear_value_head_dim")
    kernel = fields.integer("linear_conv_kernel_dim")
    keys, values = key_heads * key, heads * size
    channels = 2 * keys + values
    linears = (
        Linear(hidden, 2 * keys + 2 * values),
        Linear(hidden, 2 * heads),
        Linear(values, hidden),
    )
    # The convolution, a step and a decay for each head, a norm over one.
    other = channels * kernel + 2 * heads + size
    return State("gated delta net", (channels, kernel), (heads, key, size), linears, other)


def _states(fields: Fields, state: State) -> Body:
    count, hidden = fields.integer("num_hidden_layers"), fields.integer("hidden_size")
    return _body(fields, (Layer(state, None, hidden),) * count, state)


def _body(fields: Fields, layers: tuple[Layer, ...], state: State | None) -> Body:
    hidden = fields.integer("hidden_size")
    unknown = f"the cost of a {state.kind} layer depends on its kernel" if state else None
    return Body(
        fields.model_type,
        hidden,
        fields.integer("vocab_size"),
        layers,
        tied=fields.flag("tie_word_embeddings"),
        embedding_size=hidden,
        other_parameters=hidden,
        flops_unknown=unknown,
    )
