"""The real SmolLM2-135M on the CPU: the cache changes only the time, and the text makes sense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from kvbench.catalogue import CATALOGUE, DEFAULT_PROMPT
from kvbench.measure import engine as engine_module
from kvbench.measure.cache import cache_bytes
from kvbench.measure.engine import LocalEngine
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Encoder
from kvbench.plan.case import Case, Prompt
from tests.fakes import run_task
from tests.tiny import case, group, load, run, task

pytestmark = pytest.mark.weights

MODEL = "smollm2-135m"
FRANCE = "The capital of France is"
TWO = Prompt("file:two", (FRANCE, "Once upon a time, in a village by the sea, there lived a"))
COUNT = 30
# Keys and values of 30 layers, 3 heads of 64, in float32.
POSITION_BYTES = 2 * 30 * 3 * 64 * 4


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load(MODEL, "pretrained")


@pytest.fixture(scope="module")
def encoder(loaded: LoadedModel) -> Encoder:
    return Encoder(loaded, seed=0)


@pytest.fixture
def engine(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    """An engine with the model open, loaded once for all tests here."""
    monkeypatch.setattr(engine_module, "load_model", lambda *_, **__: loaded)
    engine = LocalEngine()
    engine.open(smollm2().model_key)
    yield engine
    engine.close()


def smollm2(**changes: Any) -> Case:
    prompt = Prompt.of_text(DEFAULT_PROMPT)
    return case(MODEL, **({"weights": "pretrained", "prompt": prompt} | changes))


def tokens(loaded: LoadedModel, encoder: Encoder, cache: str, prompt: Prompt) -> list[list[int]]:
    inputs = encoder.encode(prompt, len(prompt.texts))
    ids: list[list[int]] = run(loaded, inputs, cache, COUNT).new_ids.tolist()
    return ids


def test_it_has_the_parameters_of_the_catalogue(loaded: LoadedModel) -> None:
    assert loaded.parameters == CATALOGUE[MODEL].parameters
    assert loaded.source.gguf_file is not None


@pytest.mark.parametrize("prompt", [Prompt.of_text(FRANCE), TWO], ids=["one", "two, padded"])
def test_the_cache_does_not_change_the_tokens(
    loaded: LoadedModel, encoder: Encoder, prompt: Prompt
) -> None:
    without = tokens(loaded, encoder, "off", prompt)
    assert tokens(loaded, encoder, "dynamic", prompt) == without
    assert [len(row) for row in without] == [COUNT] * len(prompt.texts)
    assert len(set(without[0])) >= 8


def test_a_padded_row_says_what_it_says_alone(loaded: LoadedModel, encoder: Encoder) -> None:
    assert 0 in encoder.encode(TWO, 2).attention_mask
    alone = tokens(loaded, encoder, "dynamic", Prompt.of_text(FRANCE))
    assert tokens(loaded, encoder, "dynamic", TWO)[0] == alone[0]


@pytest.mark.parametrize(("batch_size", "count"), [(1, 1), (1, 30), (2, 7)])
def test_the_cache_has_its_exact_size(
    loaded: LoadedModel, encoder: Encoder, batch_size: int, count: int
) -> None:
    inputs = encoder.encode(TWO, batch_size)
    cache = run(loaded, inputs, "dynamic", count).cache
    assert cache_bytes(cache) == POSITION_BYTES * batch_size * (inputs.tokens + count - 1)


def test_what_comes_out_is_no_garbage(loaded: LoadedModel, encoder: Encoder) -> None:
    source = loaded.source
    tokenizer = AutoTokenizer.from_pretrained(source.place, gguf_file=source.gguf_file)
    ids = tokens(loaded, encoder, "dynamic", Prompt.of_text(FRANCE))
    assert "Paris" in tokenizer.decode(ids[0])


def test_both_arms_are_samples_with_one_hash(engine: LocalEngine) -> None:
    engine.check([group(smollm2())])
    off, dynamic = (
        run_task(engine, task(smollm2(cache=cache, max_new_tokens=12)))[0]
        for cache in ("off", "dynamic")
    )
    assert off.status == dynamic.status == "ok"
    assert off.output_sha256 == dynamic.output_sha256
    assert (off.kv_cache_bytes, dynamic.kv_cache_bytes) == (0, POSITION_BYTES * (6 + 12 - 1))
    assert dynamic.cache_layers == "DynamicLayer x30"
