"""Tests of the bytes of a cache: theory against the tensors of caches after real generations."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.measure import cache as measured
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from tests.theory.families import TINY, WINDOW, architecture, loaded, prompt
from tests.tiny import checkpoint, load, run

# Batch, prompt and new tokens: one token, below the window of 6, over it in the middle, right
# after a prompt that is longer, and after that.
WORK = [(1, 1, 1), (1, 3, 2), (3, 3, 6), (3, 9, 1), (1, 9, 4)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_a_real_cache_has_so_many_bytes(tmp_path: Path, name: str, dtype: str) -> None:
    model = loaded(tmp_path, name, dtype)
    for batch, tokens, new in WORK:
        cache = run(model, prompt(model, batch, tokens), "dynamic", new).cache
        said = cache_bytes(architecture(name), "dynamic", batch, tokens, new, dtype)
        assert measured.cache_bytes(cache) == said > 0


@pytest.mark.parametrize("name", ["gpt2", "t5", "mamba2"])
def test_without_a_cache_there_are_none(tmp_path: Path, name: str) -> None:
    model = loaded(tmp_path, name)
    cache = run(model, prompt(model, 1, 3), "off", 2).cache
    assert measured.cache_bytes(cache) == 0
    assert cache_bytes(architecture(name), "off", 1, 3, 2, "float32") == 0


@pytest.mark.parametrize("name", ["t5", "gpt_oss"])
def test_weights_that_stay_in_float32_do_not_widen_the_cache(tmp_path: Path, name: str) -> None:
    model = load(checkpoint(tmp_path, TINY[name]), "pretrained", dtype="float16")
    cache = run(model, prompt(model, 2, 4), "dynamic", 3).cache
    said = cache_bytes(architecture(name), "dynamic", 2, 4, 3, "float16")
    assert measured.cache_bytes(cache) == said


def test_llama_7b() -> None:
    known = Architecture.from_config(CATALOGUE["llama-2-7b"].config)
    # Keys and values, 2 bytes, layers, width, sequences, positions: 4 GiB.
    assert 2 * 2 * 32 * 4096 * 2 * 4096 == 4_294_967_296
    assert cache_bytes(known, "dynamic", 2, 4096, 1, "float16") == 4_294_967_296
    assert cache_bytes(known, "dynamic", 2, 97, 4000, "float16") == 4_294_967_296


def test_gpt2_with_a_thousand_new_tokens() -> None:
    known = Architecture.from_config(CATALOGUE["gpt2"].config)
    said = cache_bytes(known, "dynamic", 1, 6, 1000, "float32")
    # Keys and values of 1005 positions; 70.7 MiB.
    assert said == 2 * 12 * 768 * 1005 * 4 == 74_096_640


def test_the_state_of_mamba_2_is_constant_and_half_of_it_always_wide() -> None:
    def said(new: int, dtype: str) -> int:
        return cache_bytes(architecture("mamba2"), "dynamic", 1, 5, new, dtype)

    assert said(1, "float32") == said(1000, "float32")
    # 2 layers: 64 + 2 * 2 * 10 channels of 4 positions; 8 heads of 8 x 10.
    assert said(1, "bfloat16") == 2 * (104 * 4 * 2 + 8 * 8 * 10 * 4)


def test_a_window_stops_growing() -> None:
    sizes = [
        cache_bytes(architecture("mistral"), "dynamic", 1, 1, new, "float32") for new in range(1, 9)
    ]
    assert sizes == [sizes[0] * min(new, WINDOW - 1) for new in range(1, 9)]


work = st.tuples(st.integers(1, 64), st.integers(1, 300), st.integers(1, 300))


@given(st.sampled_from(sorted(TINY)), work, work)
@settings(max_examples=300, deadline=None)
def test_more_work_never_needs_less(
    name: str, one: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    known = architecture(name)
    batch, tokens, new = one
    said = cache_bytes(known, "dynamic", batch, tokens, new, "bfloat16")
    grown = tuple(size + extra for size, extra in zip(one, more, strict=True))
    assert cache_bytes(known, "dynamic", grown[0], tokens, new, "bfloat16") > said
    assert cache_bytes(known, "dynamic", batch, grown[1], new, "bfloat16") >= said
    assert cache_bytes(known, "dynamic", batch, tokens, grown[2], "bfloat16") >= said
    assert cache_bytes(known, "dynamic", batch, tokens, new, "float32") > said


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy_name": "dynamc"},
        {"dtype": "int4"},
        {"batch": 0},
        {"prompt_tokens": 0},
        {"new_tokens": -1},
    ],
)
def test_what_cannot_be_said_is_refused(changes: dict[str, object], snapshot: object) -> None:
    asked = {"strategy_name": "dynamic", "batch": 1, "prompt_tokens": 1, "new_tokens": 1}
    with pytest.raises(UserError) as caught:
        cache_bytes(architecture("gpt2"), **(asked | {"dtype": "float32"} | changes))
    assert str(caught.value) == snapshot
