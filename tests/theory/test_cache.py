"""Tests of kvbench/theory/cache.py."""

from __future__ import annotations

from typing import Any

import pytest

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.theory.cache import cache_bytes_per_token

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}

MAMBA = {"num_hidden_layers": 2, "hidden_size": 64, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 2 (keys and values) * layers * kv_heads * head_dim * 4 bytes
        ("gpt2", 2 * 12 * 12 * 64 * 4),
        ("smollm2-135m", 2 * 30 * 3 * 64 * 4),
        ("llama-2-7b", 2 * 32 * 32 * 128 * 4),
        ("llama-3.2-1b", 2 * 16 * 8 * 64 * 4),
        ("qwen3-0.6b", 2 * 28 * 8 * 128 * 4),
        ("mistral-7b", 2 * 32 * 8 * 128 * 4),
        ("gemma-3-1b", 2 * 26 * 1 * 256 * 4),
    ],
)
def test_known_architectures_have_their_known_bytes(name: str, expected: int) -> None:
    assert cache_bytes_per_token(CATALOGUE[name].config, "float32") == expected


def test_gpt2_agrees_with_what_was_measured() -> None:
    # DESIGN.md, section 5: 1000 new tokens after a prompt of 6, batch 1: about 70.2 MiB.
    size = 1000 * cache_bytes_per_token(CATALOGUE["gpt2"].config, "float32") / 2**20
    assert size == pytest.approx(70.3, abs=0.2)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_width_is_half_the_bytes(name: str, dtype: str) -> None:
    config = CATALOGUE[name].config
    assert 2 * cache_bytes_per_token(config, dtype) == cache_bytes_per_token(config, "float32")


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({}, 1),
        ({"num_hidden_layers": 8}, 2),
        ({"num_key_value_heads": 8}, 4),
        ({"num_key_value_heads": None}, 4),
        ({"hidden_size": 128}, 2),
        ({"head_dim": 8}, 1),
        ({"head_dim": 32}, 4),
        ({"head_dim": None}, 1),
    ],
)
def test_each_size_of_the_configuration_counts_as_in_the_formula(
    change: dict[str, Any], factor: int
) -> None:
    base = 2 * 4 * 2 * (64 // 8) * 4
    assert cache_bytes_per_token(LLAMA | change, "float32") == factor * base


def test_without_key_value_heads_all_heads_are_cached() -> None:
    gpt2 = {"model_type": "gpt2", "n_layer": 4, "n_embd": 64, "n_head": 8}
    assert cache_bytes_per_token(gpt2, "float32") == 2 * 4 * 64 * 4


def test_an_unknown_dtype_is_a_user_error(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        cache_bytes_per_token(LLAMA, "int4")
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(
    "missing",
    ["num_hidden_layers", "hidden_size"],
)
def test_a_configuration_that_lacks_a_size_is_a_user_error(missing: str, snapshot: object) -> None:
    config = {key: value for key, value in LLAMA.items() if key != missing}
    with pytest.raises(UserError) as caught:
        cache_bytes_per_token(config, "float32")
    assert str(caught.value) == snapshot


def test_states_and_the_encoder_do_not_grow() -> None:
    assert cache_bytes_per_token({"model_type": "mamba2"} | MAMBA, "float32") == 0
    t5 = {"model_type": "t5", "num_layers": 3, "num_decoder_layers": 2, "d_model": 64}
    # Two layers of eight heads of 64: the decoder's own attention.
    assert cache_bytes_per_token(t5, "float32") == 2 * 2 * 8 * 64 * 4
