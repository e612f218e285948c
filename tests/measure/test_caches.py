"""Each cache strategy really is what its name says: its class, its bytes, and what only it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvbench.caches import STRATEGIES, strategy
from kvbench.measure.cache import allocated_bytes, cache_bytes, cache_class, cache_layers
from kvbench.measure.engine import LocalEngine
from kvbench.measure.verify import verify
from kvbench.records.events import ModelLoaded
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes as expected_bytes
from tests.tiny import (
    GPT2,
    LLAMA,
    MISTRAL,
    T5,
    Config,
    case,
    checkpoint,
    config_folder,
    inputs_of,
    load,
    run,
    task,
)

QWEN3: Config = LLAMA | {"model_type": "qwen3"}
GEMMA3: Config = LLAMA | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 4,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "query_pre_attn_scalar": 16,
    "pad_token_id": 0,
}
MIXTRAL: Config = LLAMA | {
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
FAMILIES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qwen3": QWEN3,
    "gemma3": GEMMA3,
    "t5": T5,
    "mixtral": MIXTRAL,
}
ROWS = [[5, 17, 9, 300, 44]] * 2
NEW = 12
EXACT_HERE = [name for name, entry in STRATEGIES.items() if not entry.lossy and name != "off"]


def generated(folder: str, cache: str, tokens: int = NEW) -> Any:
    """The cache object after a generation on a fresh model."""
    loaded = load(folder)
    return run(loaded, inputs_of(loaded, ROWS), cache, tokens).cache


# What only one strategy does


def assert_static(folder: str) -> None:
    """The length is fixed from the start, and exactly what the generation needs."""
    loaded = load(folder)
    lengths: list[int] = []
    handle = loaded.model.register_forward_hook(
        lambda _module, _args, output: lengths.append(
            output.past_key_values.layers[0].keys.shape[2]
        )
    )
    cache = run(loaded, inputs_of(loaded, ROWS), "static", NEW).cache
    handle.remove()
    assert lengths == [5 + NEW - 1] * NEW
    assert cache_class(cache) == "StaticCache"
    assert cache_layers(cache) == "StaticLayer x2"
    assert allocated_bytes(cache) == cache_bytes(cache) == 2 * 2 * (2 * 2 * (5 + NEW - 1) * 16 * 4)
    assert not hasattr(loaded.model, "_compiled_call")


BEHAVIORS: dict[str, Callable[[str], None]] = {"static": assert_static}


@pytest.mark.parametrize("name", BEHAVIORS)
def test_a_strategy_is_what_its_name_says(tmp_path: Path, name: str) -> None:
    BEHAVIORS[name](config_folder(tmp_path, LLAMA))


@pytest.mark.parametrize("name", BEHAVIORS)
def test_the_body_of_dynamic_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    entry = dataclasses.replace(strategy(name), body=strategy("dynamic").body)
    monkeypatch.setitem(STRATEGIES, name, entry)
    with pytest.raises(AssertionError):
        BEHAVIORS[name](config_folder(tmp_path, LLAMA))


# Bytes


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", EXACT_HERE)
def test_theory_knows_the_bytes(tmp_path: Path, name: str, kind: str) -> None:
    loaded = load(config_folder(tmp_path, FAMILIES[kind]))
    cache = run(loaded, inputs_of(loaded, ROWS), name, NEW).cache
    architecture = Architecture.from_config(loaded.config.to_dict())
    said = expected_bytes(architecture, name, 2, 5, NEW, "float32")
    assert cache_bytes(cache) == said
    # A growing window allocates what it was concatenated from.
    assert allocated_bytes(cache) >= said


# The same work


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", EXACT_HERE)
def test_an_exact_strategy_does_the_same_work(tmp_path: Path, name: str, kind: str) -> None:
    loaded = load(checkpoint(tmp_path, FAMILIES[kind]), weights="pretrained")
    rows = verify(loaded, name, new_tokens=16, generations=3)
    assert {row.check for row in rows} == {"tokens", "logits", "shape", "leak"}
    wrong = [(row.check, row.batch_size, row.verdict, row.detail) for row in rows]
    assert {row.verdict for row in rows} <= {"pass", "near_tie"}, wrong


# Nothing is left behind


@pytest.mark.parametrize("name", EXACT_HERE)
def test_a_long_case_leaves_nothing_to_a_short_one(tmp_path: Path, name: str) -> None:
    engine = LocalEngine()
    folder = config_folder(tmp_path, LLAMA)
    short = case(folder, cache=name, max_new_tokens=4)
    assert isinstance(engine.open(short.model_key), ModelLoaded)
    try:
        before = engine.measure(task(short))[0]
        assert before.status == "ok", before.error
        long = engine.measure(task(dataclasses.replace(short, max_new_tokens=100)))[0]
        after = engine.measure(task(short))[0]
    finally:
        engine.close()
    assert long.status == after.status == "ok"
    assert long.cache_allocated_bytes is not None and after.cache_allocated_bytes is not None
    assert long.cache_allocated_bytes > 5 * after.cache_allocated_bytes
    assert after.cache_allocated_bytes == before.cache_allocated_bytes
    assert after.output_sha256 == before.output_sha256


def test_a_window_is_kept_within_its_window(tmp_path: Path) -> None:
    cache = generated(config_folder(tmp_path, MISTRAL), "static", 40)
    assert cache_layers(cache) == "StaticSlidingWindowLayer x2"
    assert cache.layers[0].keys.shape[2] == 8
