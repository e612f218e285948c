"""Position limits: what a configuration states, checked against models that run to their end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from kvbench.models.load import auto_class
from kvbench.models.positions import PositionLimit, position_limit
from tests.tiny import BART, GPT2, LLAMA, MISTRAL, OPT, T5, Config

LIMIT = 24
PROMPT = 4

_SIZES: dict[str, int] = {
    # Every spelling of a size; each family takes those that it has.
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "dim_model", "input_embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads",), 2),
    **dict.fromkeys(("head_dim", "dim_head", "d_kv"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "dff", "d_ff", "dim_ff"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_inner"), 48),
    "rotary_dim": 4,
    "vocab_size": 97,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), LIMIT),
    **dict.fromkeys(("max_decoder_position_embeddings", "context_length"), LIMIT),
    "max_encoder_position_embeddings": LIMIT + 4,
}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_DECODES: Config = {"is_decoder": True}

TABLES: dict[str, Config] = {
    "bart": {},
    "bert": _DECODES,
    "bert-generation": _DECODES,
    "big_bird": _DECODES | {"block_size": 4},
    "bigbird_pegasus": {"block_size": 4},
    "biogpt": {},
    "blenderbot": {},
    "blenderbot-small": {},
    "camembert": _DECODES,
    "codegen": {},
    "ctrl": {},
    "data2vec-text": _DECODES,
    "electra": _DECODES,
    "ernie": _DECODES,
    "git": {
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        }
    },
    "gpt-sw3": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {},
    "led": {"attention_window": 8},
    "marian": {},
    "mbart": {},
    "megatron-bert": _DECODES,
    "mpt": {},
    "mvp": {},
    "openai-gpt": {},
    "opt": {},
    "pegasus": {},
    "plbart": {},
    "prophetnet": {},
    "reformer": _DECODES
    | {
        "axial_pos_shape": [4, LIMIT // 4],
        "axial_pos_embds_dim": [8, 24],
        "num_buckets": 2,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
    },
    "rembert": _DECODES,
    "roberta": _DECODES,
    "roberta-prelayernorm": _DECODES,
    "roc_bert": _DECODES,
    "roformer": _DECODES,
    "trocr": {},
    "xlm": {},
    "xlm-roberta": _DECODES,
    "xlm-roberta-xl": _DECODES,
    "xmod": _DECODES | {"default_language": "en_XX"},
}
"""Families with a table of positions; a new release of Transformers may add others."""

ENDLESS: dict[str, Config] = {
    "bloom": {},
    "fsmt": {
        "langs": ["a", "b"],
        "src_vocab_size": 97,
        "tgt_vocab_size": 97,
        "tie_word_embeddings": False,
    },
    "inkling_text": {"num_hidden_layers": 2},
    "m2m_100": {},
    "nllb-moe": {},
    "pegasus_x": {},
    "rwkv": {"attention_hidden_size": 32},
    "seamless_m4t": {},
    "seamless_m4t_v2": {},
    "xglm": {},
    "xlnet": {},
}
"""Families that run past what one of their fields says about positions."""

WITHOUT: frozenset[str] = frozenset(
    # Hybrids of states and attention without positions: generating with two tiny layers depends on
    # their own lists of layer kinds. None of them has a rotary module or a table.
    {"inkling2_text", "jamba", "kimi_linear", "musicgen", "musicgen_melody", "nemotron_h", "zamba"}
)


def tiny(kind: str, **changes: Any) -> PretrainedConfig:
    """Return a small configuration of a family, in its own spellings."""
    default = AutoConfig.for_model(kind)
    known = default.to_dict()
    small = {name: size for name, size in _SIZES.items() if type(known.get(name)) is int}
    ids = {name: number for name, number in _IDS.items() if name in known}
    return AutoConfig.for_model(kind, **small | ids | changes)


def runs(model: Any, prompt: int, new_tokens: int) -> bool:
    """Return whether a generation completes."""
    ids = torch.randint(5, 90, (1, prompt), generator=torch.Generator().manual_seed(0))
    try:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def made(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return auto_class(config).from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", TABLES)
def test_a_model_runs_to_the_end_of_its_table_and_no_further(kind: str) -> None:
    config = tiny(kind, **TABLES[kind])
    limit = position_limit(config)
    assert limit.kind == "absolute"
    assert limit.positions is not None
    model = made(config)
    # The last token that comes out is never fed back.
    new_tokens = limit.positions + 1 - (1 if config.is_encoder_decoder else PROMPT)
    assert runs(model, PROMPT, new_tokens)
    assert not runs(model, PROMPT, new_tokens + 1)
    # A prompt may fill a table; that of prophetnet's encoder has no end.
    assert (limit.prompt is None) == (kind == "prophetnet")
    if limit.prompt is not None:
        assert runs(model, limit.prompt, 1)
        assert not runs(model, limit.prompt + 1, 1)


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_model_without_a_limit_runs_past_what_its_configuration_says(kind: str) -> None:
    config = tiny(kind, **ENDLESS[kind])
    assert position_limit(config) == PositionLimit("none")
    model = made(config)
    assert runs(model, PROMPT, LIMIT + 8)
    assert runs(model, LIMIT + 8, 2)


def test_prophetnet_takes_positions_past_its_table_as_the_last_one_in_the_encoder() -> None:
    config = tiny("prophetnet")
    assert position_limit(config).prompt is None
    assert runs(made(config), LIMIT + 8, 2)


def test_sinusoids_of_trocr_do_not_grow_while_there_is_a_cache() -> None:
    config = tiny("trocr", use_learned_position_embeddings=False)
    assert position_limit(config) == PositionLimit("absolute", LIMIT, LIMIT)
    model = made(config)
    assert runs(model, PROMPT, LIMIT + 1 - PROMPT)
    assert not runs(model, PROMPT, LIMIT + 2 - PROMPT)


def test_every_family_without_rotary_positions_is_known() -> None:
    # A family from a new release is checked before its limit is trusted.
    unknown = set()
    for kind in {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}:
        if kind in {*TABLES, *ENDLESS, *WITHOUT}:
            continue
        try:
            limit = position_limit(AutoConfig.for_model(kind))
        except StrictDataclassError:
            continue  # Its own defaults contradict each other: there is nothing to check.
        if limit.kind == "absolute":
            unknown.add(kind)
    # Not a model by its defaults; two models that are known; refused before its positions matter.
    assert unknown <= {"cohere_compass_text", "encoder-decoder", "whisper"}


@pytest.mark.parametrize("kind", sorted(WITHOUT))
def test_what_has_no_positions_has_no_limit(kind: str) -> None:
    assert position_limit(AutoConfig.for_model(kind)) == PositionLimit("none")


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2, PositionLimit("absolute", 64, 64)),
        (OPT, PositionLimit("absolute", 64, 64)),
        (BART, PositionLimit("absolute", 64, 64)),
        ({"model_type": "gptj", "n_positions": 100}, PositionLimit("absolute", 100, 100)),
        ({"model_type": "mpt", "max_seq_len": 90}, PositionLimit("absolute", 90, 90)),
        (LLAMA, PositionLimit("rotary", 128)),
        (MISTRAL, PositionLimit("rotary", 128)),
        ({"model_type": "gpt_neox", "max_position_embeddings": 99}, PositionLimit("rotary", 99)),
        ({"model_type": "falcon", "max_position_embeddings": 77}, PositionLimit("rotary", 77)),
        ({"model_type": "dbrx", "max_seq_len": 88}, PositionLimit("rotary", 88)),
        ({"model_type": "t5gemma"}, PositionLimit("rotary", 8192)),
        ({"model_type": "falcon", "alibi": True}, PositionLimit("none")),
        ({"model_type": "bloom"}, PositionLimit("none")),
        (T5, PositionLimit("none")),
        ({"model_type": "mt5"}, PositionLimit("none")),
        ({"model_type": "rwkv", "context_length": 33}, PositionLimit("none")),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else value.kind,
)
def test_positions_reach_as_far_as_the_config_says(config: Config, limit: PositionLimit) -> None:
    assert position_limit(AutoConfig.for_model(**config)) == limit


@pytest.mark.parametrize(
    ("window", "encoder", "longest"), [(8, 64, 64), (8, 60, 56), ([4, 16], 60, 48)]
)
def test_led_pads_a_prompt_to_its_window(window: Any, encoder: int, longest: int) -> None:
    config = tiny("led", attention_window=window, max_encoder_position_embeddings=encoder)
    assert position_limit(config) == PositionLimit("absolute", LIMIT, longest)


def test_each_side_of_a_pair_of_models_has_its_own_positions() -> None:
    parts = {"encoder": tiny("bert"), "decoder": tiny("gpt2")}
    parts["encoder"].max_position_embeddings = 40
    config = AutoConfig.for_model(
        "encoder-decoder", **{side: part.to_dict() for side, part in parts.items()}
    )
    assert position_limit(config) == PositionLimit("absolute", LIMIT, 40)


@pytest.mark.parametrize("field", ["rope_theta", "rotary_emb_base"])
def test_code_outside_transformers_may_spell_rotary_otherwise(field: str) -> None:
    config = PretrainedConfig(max_position_embeddings=50, **{field: 10_000.0})
    assert position_limit(config) == PositionLimit("rotary", 50)
