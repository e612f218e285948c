"""The real SmolLM2-135M on the CPU: the cache changes only the time, and the text makes sense.

Loading takes ten seconds and most of the time here: whatever needs these weights is in this file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvbench.catalogue import CATALOGUE, DEFAULT_PROMPT
from kvbench.measure import engine as engine_module
from kvbench.measure.cache import cache_bytes
from kvbench.measure.engine import LocalEngine
from kvbench.measure.quality import QualityPass
from kvbench.measure.verify import verify
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Encoder
from kvbench.plan.case import Case, Prompt
from kvbench.plan.texts import default_text
from kvbench.records.quality import QualitySize
from tests.fakes import run_task
from tests.tiny import case, group, load, run, task

pytestmark = pytest.mark.weights

MODEL = "smollm2-135m"
FRANCE = "The capital of France is"
TWO = Prompt("file:two", (FRANCE, "Once upon a time, in a village by the sea, there lived a"))
COUNT = 16
FP8 = "quantized:backend=fp8"
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


Tokens = Callable[[str, Prompt], list[list[int]]]


@pytest.fixture(scope="module")
def tokens(loaded: LoadedModel, encoder: Encoder) -> Tokens:
    """Generate with a cache strategy, each prompt once."""

    @functools.cache
    def generated(cache: str, prompt: Prompt) -> list[list[int]]:
        inputs = encoder.encode(prompt, len(prompt.texts))
        ids: list[list[int]] = run(loaded, inputs, cache, COUNT).new_ids.tolist()
        return ids

    return generated


def test_it_has_the_parameters_of_the_catalogue(loaded: LoadedModel) -> None:
    assert loaded.parameters == CATALOGUE[MODEL].parameters
    assert loaded.source.gguf_file is not None


@pytest.mark.parametrize("prompt", [Prompt.of_text(FRANCE), TWO], ids=["one", "two, padded"])
def test_the_cache_does_not_change_the_tokens(tokens: Tokens, prompt: Prompt) -> None:
    without = tokens("off", prompt)
    assert tokens("dynamic", prompt) == without
    assert [len(row) for row in without] == [COUNT] * len(prompt.texts)
    assert len(set(without[0])) >= 8


def test_a_padded_row_says_what_it_says_alone(tokens: Tokens, encoder: Encoder) -> None:
    assert 0 in encoder.encode(TWO, 2).attention_mask
    assert tokens("dynamic", TWO)[0] == tokens("dynamic", Prompt.of_text(FRANCE))[0]


@pytest.mark.parametrize(("batch_size", "count"), [(1, 1), (2, 7)])
def test_the_cache_has_its_exact_size(
    loaded: LoadedModel, encoder: Encoder, batch_size: int, count: int
) -> None:
    inputs = encoder.encode(TWO, batch_size)
    cache = run(loaded, inputs, "dynamic", count).cache
    assert cache_bytes(cache) == POSITION_BYTES * batch_size * (inputs.tokens + count - 1)


def test_what_comes_out_is_no_garbage(tokens: Tokens, encoder: Encoder) -> None:
    (row,) = tokens("dynamic", Prompt.of_text(FRANCE))
    assert " Paris" in (encoder.decode(row) or ())


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


def test_verification_passes(loaded: LoadedModel) -> None:
    checks = verify(loaded, "dynamic", new_tokens=8, generations=2)
    assert {check.verdict for check in checks} == {"pass"}, [check.detail for check in checks]
    shape = next(check for check in checks if check.check == "shape")
    # 30 layers, 3 heads of 64; 8 tokens of prompt, 7 of the 8 new ones fed back.
    assert "30 layers" in shape.detail and "[1, 3, 15, 64]" in shape.detail
    logits = [check for check in checks if check.check == "logits"]
    assert all(check.rms_over_std < 1e-5 for check in logits)


def test_real_weights_show_how_little_8_bits_lose(loaded: LoadedModel) -> None:
    """SmolLM2-135M finds the number without a cache; fp8 loses something, and not much."""
    size = QualitySize(passages=1, prefill=96, steps=8, needles=1)
    real = QualityPass(loaded, default_text(), size=size)
    exact, lossy = real.of("dynamic"), real.of(FP8)
    assert exact.kl_divergence is not None and lossy.kl_divergence is not None
    assert exact.kl_divergence < 1e-5 < 1e-4 < lossy.kl_divergence < 0.1
    assert lossy.perplexity_ratio == pytest.approx(1, abs=0.2)
    assert exact.baseline_perplexity is not None and exact.baseline_perplexity < 100
    assert (exact.baseline_needles_found, exact.needles_found, lossy.needles_found) == (1, 1, 1)
