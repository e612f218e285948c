"""Tests of what theory reads from a configuration, and of the weights that follow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.models.load import parameter_count
from kvbench.theory.architecture import FAMILIES, Architecture
from kvbench.theory.fields import SPELLINGS
from kvbench.theory.layers import Attention, Experts, Mlp, State
from kvbench.theory.weights import parameters, weights_bytes
from tests.theory.families import TINY, architecture, loaded
from tests.tiny import Config, checkpoint, load

COUNTED = [name for name in TINY if name != "gemma3n"]
GEMMA_3_4B: Config = {
    # As published: missing fields have their defaults.
    "model_type": "gemma3",
    "vision_config": {"model_type": "siglip_vision_model"},
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
}


def attentions(known: Architecture) -> list[Attention]:
    return [layer.mixer for layer in known.layers if isinstance(layer.mixer, Attention)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_defaults_are_those_of_transformers(name: str) -> None:
    real = type(AutoConfig.for_model(name))
    stated = {one.name: one.default for one in dataclasses.fields(real)}
    for field, value in FAMILIES[name][0].items():
        names = [one for one in SPELLINGS.get(field, (field,)) if one in stated]
        # A name with an underscore is a plain attribute of the class.
        defaults = [stated[one] for one in names] or [getattr(real, field)]
        assert defaults == [value], field


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_has_a_tiny_model(name: str) -> None:
    assert name in {config["model_type"] for config in TINY.values()}


@pytest.mark.parametrize("name", CATALOGUE)
def test_weights_of_the_catalogue(name: str) -> None:
    entry = CATALOGUE[name]
    known = Architecture.from_config(entry.config)
    assert parameters(known) == entry.parameters
    assert weights_bytes(known, "bfloat16") == 2 * entry.parameters


@pytest.mark.parametrize(
    "config",
    [TINY[name] for name in COUNTED]
    + [
        TINY["gpt2"] | {"n_inner": 24, "tie_word_embeddings": False},
        TINY["llama"] | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        TINY["llama"] | {"num_key_value_heads": None, "head_dim": None},
        TINY["qwen3"] | {"attention_bias": True, "head_dim": 6},
        TINY["gemma3"] | {"attention_bias": True, "tie_word_embeddings": False},
        TINY["gpt_neox"] | {"attention_bias": False, "tie_word_embeddings": True},
        TINY["gpt_oss"] | {"attention_bias": False},
        TINY["qwen3_moe"] | {"mlp_only_layers": None},
        TINY["llama4"] | {"moe_layers": [0, 1, 2]},
        TINY["opt"] | {"word_embed_proj_dim": 32, "enable_bias": False},
        TINY["opt"] | {"do_layer_norm_before": False, "layer_norm_elementwise_affine": False},
        TINY["opt"] | {"_remove_final_layer_norm": True, "word_embed_proj_dim": None},
        TINY["falcon-new"] | {"num_ln_in_parallel_attn": 1, "ffn_hidden_size": 40, "bias": True},
        TINY["deepseek_v3"] | {"q_lora_rank": None, "attention_bias": True},
        TINY["mamba"] | {"use_bias": True, "use_conv_bias": False, "time_step_rank": 3},
        TINY["mamba2"] | {"use_bias": True, "use_conv_bias": False, "tie_word_embeddings": True},
        TINY["qwen3_next"] | {"mlp_only_layers": [1], "attention_bias": True},
        TINY["t5"] | {"num_decoder_layers": None, "feed_forward_proj": "gated-silu"},
    ],
)
def test_weights_are_those_of_the_model(config: Config) -> None:
    real = parameter_count(AutoConfig.for_model(**config))
    assert parameters(Architecture.from_config(config)) == real


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "mamba2", "t5", "gpt_oss"])
def test_bytes_are_those_of_the_loaded_weights(tmp_path: Path, name: str, dtype: str) -> None:
    def real(model: Any) -> int:
        return sum(one.numel() * one.element_size() for one in model.parameters())

    known = architecture(name)
    made = loaded(tmp_path / "made", name, dtype)
    assert weights_bytes(known, dtype, random=True) == real(made.model)
    read = load(checkpoint(tmp_path / "read", TINY[name]), "pretrained", dtype=dtype)
    assert weights_bytes(known, dtype) == real(read.model)


@pytest.mark.parametrize(
    "config",
    [
        *TINY.values(),
        TINY["gemma3"] | {"sliding_window_pattern": 3},
        TINY["gemma3n"] | {"layer_types": None},
        TINY["qwen2-window"] | {"num_hidden_layers": 5, "max_window_layers": 3},
        TINY["qwen2-window"] | {"use_sliding_window": False},
        TINY["qwen3_moe"] | {"use_sliding_window": True, "sliding_window": 5},
        TINY["qwen3_next"] | {"full_attention_interval": 2},
        TINY["llama4"] | {"no_rope_layer_interval": 3},
        TINY["llama4"] | {"no_rope_layers": [0, 1, 1, 0]},
        TINY["phi3"] | {"sliding_window": None},
    ],
)
def test_all_that_transformers_says_reads_the_same(config: Config) -> None:
    # Transformers writes out the values that it fills in for missing fields.
    told = AutoConfig.for_model(**config).to_dict()
    assert Architecture.from_config(told) == Architecture.from_config(config)


@pytest.mark.parametrize("name", ["gpt2", "t5", "falcon-new", "mixtral"])
def test_another_spelling_is_the_same(name: str) -> None:
    first = {other: names[0] for names in SPELLINGS.values() for other in names}
    spelled = {first.get(key, key): value for key, value in TINY[name].items()}
    assert set(spelled) != set(TINY[name])
    assert Architecture.from_config(spelled) == architecture(name)


def test_what_a_layer_of_llama_is() -> None:
    layer = architecture("llama").layers[0]
    assert isinstance(layer.mixer, Attention)
    shape = (layer.mixer.heads, layer.mixer.kv_heads, layer.mixer.key_dim, layer.mixer.value_dim)
    assert shape == (4, 2, 12, 12)
    assert layer.mixer.window is None
    assert layer.mixer.kept == 2 * 2 * 12
    assert layer.mlp == Mlp(32, 48, gated=True)
    assert (layer.norms, layer.cross) == (64, None)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("mistral", [6, 6]),
        ("qwen2", [None, None]),
        ("qwen2-window", [None, 6]),
        ("gemma2", [6, None, 6]),
        ("gemma3", [6, 6, 6, 6, 6, None, 6]),
        ("gpt_oss", [6, None, 6]),
        ("llama4", [6, 6, 6, None]),
    ],
)
def test_which_layers_have_a_window(name: str, windows: list[int | None]) -> None:
    assert [one.window for one in attentions(architecture(name))] == windows


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("gpt2", [2 * 4 * 8] * 2),
        ("falcon", [2 * 8] * 2),
        ("falcon-new", [2 * 4 * 8] * 2),
        ("deepseek_v3", [10 + 4] * 3),
        ("gemma3n", [2 * 2 * 12] * 4 + [0] * 2),
    ],
)
def test_what_a_position_adds(name: str, kept: list[int]) -> None:
    assert [one.kept for one in attentions(architecture(name))] == kept


def test_states_experts_and_the_encoder() -> None:
    mixers = [layer.mixer for layer in architecture("qwen3_next").layers]
    kinds = [mixer.kind if isinstance(mixer, State) else "attention" for mixer in mixers]
    assert kinds == ["gated delta net"] * 3 + ["attention", "gated delta net"]
    mlps = [layer.mlp for layer in architecture("deepseek_v3").layers]
    assert [isinstance(mlp, Experts) for mlp in mlps] == [False, True, True]
    assert isinstance(mlps[1], Experts)
    assert (mlps[1].count, mlps[1].per_token) == (4, 2)
    assert mlps[1].shared == Mlp(32, 2 * 24, gated=True)
    known = architecture("t5")
    assert (len(known.encoder), len(known.layers)) == (3, 2)
    assert known.layers[0].cross is not None
    assert known.encoder[0].cross is None


def test_the_text_part_of_a_model_of_several_kinds_of_input(snapshot: object) -> None:
    known = Architecture.from_config(GEMMA_3_4B)
    real = AutoConfig.for_model(**GEMMA_3_4B).get_text_config().to_dict()
    assert dataclasses.replace(known, weights_unknown=None) == Architecture.from_config(real)
    assert known.model_type == "gemma3_text"
    assert attentions(known)[0].kept == 2 * 4 * 256
    with pytest.raises(UserError) as caught:
        parameters(known)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(
    "config",
    [TINY["gemma3n"], TINY["llama"] | {"quantization_config": {"bits": 4}}],
)
def test_weights_that_cannot_be_counted_are_refused(config: Config, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        weights_bytes(Architecture.from_config(config), "float16")
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"model_type": "lama"}),
        ("llama", {"model_type": None}),
        ("llama", {"text_config": 3}),
        ("llama", {"num_attention_heads": "4"}),
        ("llama", {"hidden_size": 0}),
        ("llama", {"hidden_size": True}),
        ("llama", {"vocab_size": None}),
        ("llama", {"n_layer": 3}),
        ("llama", {"num_key_value_heads": 3}),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None}),
        ("llama", {"mlp_bias": "no"}),
        ("llama", {"per_layer_config": {"0": {}}}),
        ("llama", {"layer_types": "full_attention"}),
        ("llama", {"layer_types": ["full_attention"]}),
        ("llama", {"layer_types": ["full_attention", "lightning"]}),
        ("mistral", {"sliding_window": 1}),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("gemma3n", {"num_kv_shared_layers": 6}),
        ("gpt2", {"add_cross_attention": True}),
        ("mixtral", {"num_experts_per_tok": 5}),
        ("qwen3_moe", {"mlp_only_layers": 3}),
        ("llama4", {"no_rope_layers": [1]}),
        ("falcon-new", {"num_kv_heads": 3}),
        ("mamba2", {"num_heads": 7}),
        ("t5", {"feed_forward_proj": "odd-gelu"}),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_field(
    name: str, changes: Config, snapshot: object
) -> None:
    with pytest.raises(UserError) as caught:
        Architecture.from_config(TINY[name] | changes)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size"])
def test_layers_and_width_have_no_default(field: str, snapshot: object) -> None:
    config = {key: value for key, value in TINY["llama"].items() if key != field}
    with pytest.raises(UserError) as caught:
        Architecture.from_config(config)
    assert str(caught.value) == snapshot
