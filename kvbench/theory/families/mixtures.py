"""The MLPs of a decoder: one for all tokens, or experts of which each token uses a few."""

from __future__ import annotations

from collections.abc import Callable

from kvbench.theory.fields import Fields
from kvbench.theory.layers import Experts, Linear, Mlp

__all__ = [
    "MakeMlp",
    "deepseek_experts",
    "gated",
    "gpt_oss_experts",
    "llama4_experts",
    "mixtral_experts",
    "no_mlp",
    "qwen_experts",
]

MakeMlp = Callable[[Fields, int], Mlp | Experts | None]
"""Returns the MLP of the layer with this number."""


def gated(fields: Fields, index: int = 0) -> Mlp:
    """Return two matrices up and one down, with the biases that `mlp_bias` asks for."""
    hidden, width = fields.integer("hidden_size"), fields.integer("intermediate_size")
    return Mlp(hidden, width, gated=True, bias=fields.flag("mlp_bias"))


def no_mlp(fields: Fields, index: int) -> None:
    """Return None: theory does not know the MLP."""


def mixtral_experts(fields: Fields, index: int) -> Experts:
    """Return experts for every layer."""
    return _experts(fields, "intermediate_size")


def gpt_oss_experts(fields: Fields, index: int) -> Experts:
    """Return experts for every layer, with biases everywhere."""
    return _experts(fields, "intermediate_size", bias=True)


def qwen_experts(fields: Fields, index: int) -> Mlp | Experts:
    """Return experts for each `decoder_sparse_step`-th layer that is not in `mlp_only_layers`."""
    step = fields.integer("decoder_sparse_step")
    dense = index in (fields.integers("mlp_only_layers") or [])
    if dense or fields.integer("num_experts", least=0) == 0 or (index + 1) % step:
        return gated(fields)
    return _experts(fields, "moe_intermediate_size", shared="shared_expert_intermediate_size")


def llama4_experts(fields: Fields, index: int) -> Mlp | Experts:
    """Return experts for `moe_layers`, else for each `interleave_moe_layer_step`-th layer.

    Transformers multiplies each token with every expert, with a zero for unselected ones.
    """
    step, listed = fields.integer("interleave_moe_layer_step"), fields.integers("moe_layers")
    if index not in listed if listed is not None else (index + 1) % step:
        return Mlp(fields.integer("hidden_size"), fields.integer("intermediate_size_mlp"), True)
    one = _experts(fields, "intermediate_size")
    return Experts(one.count, one.count, one.expert, one.router, shared=one.expert)


def deepseek_experts(fields: Fields, index: int) -> Mlp | Experts:
    """Return experts, plus shared ones, after the first `first_k_dense_replace` layers."""
    if index < fields.integer("first_k_dense_replace", least=0):
        return gated(fields)
    one = _experts(fields, "moe_intermediate_size")
    width = one.expert.width * fields.integer("n_shared_experts")
    shared = Mlp(one.expert.inputs, width, gated=True)
    return Experts(one.count, one.per_token, one.expert, one.router, shared)


def _experts(fields: Fields, width: str, bias: bool = False, shared: str = "") -> Experts:
    hidden, count = fields.integer("hidden_size"), fields.integer("num_experts")
    per_token = fields.integer("num_experts_per_tok")
    if per_token > count:
        fields.refuse("num_experts_per_tok", f"{per_token} of {count} experts")
    expert = Mlp(hidden, fields.integer(width), gated=True, bias=bias)
    router = Linear(hidden, count, bias)
    common = fields.optional(shared)
    if common is None:
        return Experts(count, per_token, expert, router)
    return Experts(count, per_token, expert, router, Mlp(hidden, common, True), Linear(hidden, 1))
