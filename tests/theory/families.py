"""A tiny configuration of each family that theory reads, and measurements of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvbench.models.load import LoadedModel
from kvbench.theory.architecture import Architecture
from tests.tiny import Config, config_folder, inputs_of, load

VOCABULARY = 97
WINDOW = 6
"""Positions that a query of a sliding layer sees."""

_DECODER: Config = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SLIDING: Config = _DECODER | {"sliding_window": WINDOW}
_EXPERTS: Config = {"num_experts_per_tok": 2, "num_local_experts": 4}
_QWEN_EXPERTS: Config = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 24}
_STATES: Config = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "state_size": 10,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_FALCON: Config = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_T5: Config = {
    "model_type": "t5",
    "num_layers": 3,
    "num_decoder_layers": 2,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_heads": 4,
    "vocab_size": VOCABULARY,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
}

TINY: dict[str, Config] = {
    "gpt2": {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama": _DECODER | {"model_type": "llama"},
    "mistral": _SLIDING | {"model_type": "mistral"},
    "qwen2": _DECODER | {"model_type": "qwen2"},
    "qwen2-window": _SLIDING
    | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": _DECODER | {"model_type": "qwen3"},
    "qwen3_moe": _DECODER
    | _QWEN_EXPERTS
    | {"model_type": "qwen3_moe", "num_hidden_layers": 4, "decoder_sparse_step": 2}
    | {"mlp_only_layers": [3]},
    "gemma": _DECODER | {"model_type": "gemma"},
    "gemma2": _SLIDING | {"model_type": "gemma2", "num_hidden_layers": 3},
    "gemma3": _SLIDING | {"model_type": "gemma3_text", "num_hidden_layers": 7},
    "gemma3n": _SLIDING
    | {"model_type": "gemma3n_text", "num_hidden_layers": 6, "num_kv_shared_layers": 2}
    | {"layer_types": ["sliding_attention", "full_attention"] * 3}
    | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
    | {"laurel_rank": 4},
    "phi3": _SLIDING | {"model_type": "phi3"},
    "smollm3": _DECODER | {"model_type": "smollm3"},
    "olmo2": _DECODER | {"model_type": "olmo2"},
    "mixtral": _DECODER | _EXPERTS | {"model_type": "mixtral"},
    "gpt_oss": _SLIDING
    | _EXPERTS
    | {
        "model_type": "gpt_oss",
        "num_hidden_layers": 3,
        "rope_parameters": {"rope_type": "default"},
    },
    "llama4": _DECODER
    | _EXPERTS
    | {"model_type": "llama4_text", "num_hidden_layers": 4, "attention_chunk_size": WINDOW}
    | {"num_experts_per_tok": 1, "intermediate_size_mlp": 40, "interleave_moe_layer_step": 2},
    "gpt_neox": {
        "model_type": "gpt_neox",
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    },
    "opt": {
        "model_type": "opt",
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 48,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    },
    "falcon": _FALCON | {"model_type": "falcon"},
    "falcon-new": _FALCON
    | {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-old": _FALCON
    | {"model_type": "falcon", "multi_query": False, "parallel_attn": False, "bias": True}
    | {"alibi": True},
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_shared_experts": 2,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 10,
        "q_lora_rank": 14,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 6,
        "first_k_dense_replace": 1,
        "vocab_size": VOCABULARY,
    },
    "mamba": _STATES | {"model_type": "mamba"},
    "mamba2": _STATES
    | {"model_type": "mamba2", "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "qwen3_next": _DECODER
    | _QWEN_EXPERTS
    | {"model_type": "qwen3_next", "num_hidden_layers": 5}
    | {"linear_key_head_dim": 6, "linear_value_head_dim": 10, "linear_num_key_heads": 2}
    | {"linear_num_value_heads": 4, "shared_expert_intermediate_size": 40},
    "t5": _T5,
    "t5-gated": _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def architecture(name: str) -> Architecture:
    """Return what theory reads from it."""
    return Architecture.from_config(TINY[name])


def loaded(path: Path, name: str, dtype: str = "float32", attention: str = "auto") -> LoadedModel:
    """Return the model with random weights."""
    return load(config_folder(path, TINY[name]), dtype=dtype, attention=attention)


def prompt(model: LoadedModel, batch: int, tokens: int) -> Any:
    """Return this many rows of ids."""
    return inputs_of(model, [list(range(10, 10 + tokens))] * batch)
