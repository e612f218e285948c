"""Tests of kvbench/models/shapes.py: caches read off models without data, against real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kvbench.errors import UserError
from kvbench.measure import cache as measured
from kvbench.models.shapes import read_shapes
from kvbench.theory.architecture import FAMILIES, Architecture
from kvbench.theory.cache import cache_bytes, per_token_bytes
from kvbench.theory.weights import parameters, weights_bytes
from tests.theory.families import TINY
from tests.tiny import Config, config_folder, inputs_of, load, run

VOCABULARY = 97
WINDOW = 6

SIZES: Config = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""What most decoders call their sizes; a key that a family does not know is ignored by it."""

SEQ2SEQ: Config = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
}

EXPERTS: Config = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}

UNKNOWN: dict[str, Config] = {
    # Decoders like Llama, with changes that formulas would have to know one by one.
    "apertus": SIZES,
    "arcee": SIZES,
    "bitnet": SIZES,
    "cohere": SIZES,
    "cohere2": SIZES | {"sliding_window": WINDOW, "num_hidden_layers": 4},
    "cwm": SIZES | {"sliding_window": WINDOW},
    "diffllama": SIZES,
    "doge": SIZES,
    "ernie4_5": SIZES,
    "exaone4": SIZES | {"sliding_window": WINDOW, "num_hidden_layers": 4},
    "gemma4_text": SIZES
    | {"sliding_window": WINDOW, "num_hidden_layers": 6, "head_dim": 8, "global_head_dim": 16}
    | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
    | {"num_kv_shared_layers": 0},
    "glm": SIZES | {"head_dim": 8},
    "glm4": SIZES | {"head_dim": 8},
    "granite": SIZES,
    "helium": SIZES | {"head_dim": 8},
    "jais2": SIZES,
    "nemotron": SIZES,
    "olmo": SIZES,
    "olmo3": SIZES | {"sliding_window": WINDOW, "num_hidden_layers": 4},
    "persimmon": SIZES,
    "phi": SIZES,
    "seed_oss": SIZES | {"head_dim": 8},
    "stablelm": SIZES,
    "starcoder2": SIZES | {"sliding_window": None},
    "vaultgemma": SIZES | {"sliding_window": WINDOW, "head_dim": 8},
    # Mixtures of experts.
    "flex_olmo": SIZES | EXPERTS,
    "granitemoe": SIZES | EXPERTS,
    "olmoe": SIZES | EXPERTS,
    "phimoe": SIZES | EXPERTS,
    "qwen2_moe": SIZES | EXPERTS | {"shared_expert_intermediate_size": 24},
    # Older decoders, each with its own names.
    "biogpt": SIZES,
    "bloom": {"n_layer": 2, "hidden_size": 32, "n_head": 4, "vocab_size": VOCABULARY},
    "codegen": {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 4,
        "rotary_dim": 4,
        "n_positions": 64,
        "vocab_size": VOCABULARY,
    },
    "gpt_bigcode": {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": VOCABULARY,
    },
    "gpt_neo": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    },
    "gptj": {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 4,
        "rotary_dim": 4,
        "n_positions": 64,
        "vocab_size": VOCABULARY,
    },
    "mpt": {
        "n_layers": 2,
        "d_model": 32,
        "n_heads": 4,
        "max_seq_len": 64,
        "vocab_size": VOCABULARY,
    },
    "xglm": {
        "num_layers": 2,
        "d_model": 32,
        "ffn_dim": 48,
        "attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    },
    # States in place of keys and values, in some layers or in all.
    "bamba": SIZES
    | {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 10}
    | {"mamba_n_groups": 1, "mamba_chunk_size": 8},
    "falcon_h1": SIZES
    | {"head_dim": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64}
    | {"mamba_d_state": 10, "mamba_n_groups": 1, "mamba_chunk_size": 8},
    "falcon_mamba": {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "state_size": 10,
        "vocab_size": VOCABULARY,
    },
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"]},
    "minimax": SIZES
    | EXPERTS
    | {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    # Encoder-decoders.
    "bart": SEQ2SEQ,
    "marian": SEQ2SEQ,
    "mbart": SEQ2SEQ,
    "pegasus": SEQ2SEQ,
    "mt5": {
        "num_layers": 2,
        "num_decoder_layers": 2,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_heads": 4,
        "vocab_size": VOCABULARY,
        "decoder_start_token_id": 0,
    },
}
"""A tiny configuration of families that theory has no formulas for."""

ALL_FAMILIES = os.environ.get("KVBENCH_ALL_FAMILIES") == "1"
SAMPLE = ("cohere2", "gemma4_text", "phimoe", "gpt_neo", "falcon_h1", "minimax", "bart")
"""One of each kind; all of them with KVBENCH_ALL_FAMILIES=1."""

# Batch, prompt and new tokens: below the window of 6, over it in the middle, and after it.
WORK = [(1, 4, 1), (3, 3, 6), (1, 9, 4)]


def keys(name: str) -> Config:
    return {"model_type": name} | UNKNOWN[name]


def architecture(config: Config) -> Architecture:
    return Architecture.from_shapes(read_shapes(config))


def test_the_list_has_forty_families_that_theory_cannot_read() -> None:
    assert len(UNKNOWN.keys() - FAMILIES.keys()) == len(UNKNOWN) >= 40
    assert set(SAMPLE) <= UNKNOWN.keys()


@pytest.mark.parametrize("name", UNKNOWN if ALL_FAMILIES else SAMPLE)
def test_what_is_read_off_a_model_is_what_a_real_cache_takes(tmp_path: Path, name: str) -> None:
    known = architecture(keys(name))
    for dtype in ("float32", "bfloat16"):
        model = load(config_folder(tmp_path / dtype, keys(name)), dtype=dtype)
        assert parameters(known) == model.parameters
        for batch, tokens, new in WORK:
            prompt = inputs_of(model, [list(range(10, 10 + tokens))] * batch)
            made = run(model, prompt, "dynamic", new)
            found = measured.cache_bytes(made.cache) + made.state.bytes
            assert cache_bytes(known, "dynamic", batch, tokens, new, dtype) == found > 0


@pytest.mark.parametrize("name", TINY)
def test_a_family_with_formulas_has_the_same_bytes_either_way(name: str) -> None:
    """To the byte, whatever the work, without the formulas of the family."""
    formulas = Architecture.from_config(TINY[name])
    read = architecture(TINY[name])
    for dtype in ("float32", "bfloat16"):
        assert per_token_bytes(read, dtype) == per_token_bytes(formulas, dtype)
        for batch, tokens, new in [(1, 1, 1), *WORK, (2, 500, 700)]:
            work = ("dynamic", batch, tokens, new, dtype)
            assert cache_bytes(read, *work) == cache_bytes(formulas, *work)
    if formulas.weights_unknown is None:
        assert parameters(read) == parameters(formulas)
        assert weights_bytes(read, "float16") == weights_bytes(formulas, "float16")


def test_a_state_on_modules_is_counted(tmp_path: Path) -> None:
    """RecurrentGemma keeps its state in attributes of its modules, not in the cache object."""
    config = SIZES | {"model_type": "recurrent_gemma", "num_hidden_layers": 3}
    config |= {"lru_width": 32, "attention_window_size": 16, "head_dim": 8}
    model = load(config_folder(tmp_path, config))
    made = run(model, inputs_of(model, [[10, 11, 12, 13, 14]]), "dynamic", 3)
    assert made.state.bytes > 0
    said = cache_bytes(architecture(config), "dynamic", 1, 5, 3, "float32")
    assert said == measured.cache_bytes(made.cache) + made.state.bytes


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "no_such"}, "Transformers cannot read the configuration of 'no_such'"),
        ({"model_type": "whisper"}, "does not generate text"),
        ({"model_type": "bert"}, "bert (bert) is an encoder"),
        ({"model_type": "nemotron"}, "Transformers cannot build it from this configuration"),
        ({"model_type": "jetmoe"}, "the model does not run without data"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_shapes(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_known_of_the_weights_is_said() -> None:
    quantized = read_shapes(keys("cohere") | {"quantization_config": {"quant_method": "gptq"}})
    assert quantized.weights_unknown == "they are quantized"
    assert read_shapes(json.loads(json.dumps(keys("cohere")))).weights_unknown is None
