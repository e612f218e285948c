"""Tests of kvbench/measure/quality.py on tiny models whose tokens are words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kvbench.errors import UserError
from kvbench.measure.engine import LocalEngine
from kvbench.measure.quality import QualityPass, measure_quality
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Encoder
from kvbench.plan.texts import Text
from kvbench.records.quality import QualitySize
from tests.tiny import GPT2, LLAMA, T5, VOCABULARY, checkpoint, key, load, word_tokenizer

FP8 = "quantized:backend=fp8"
SIZE = QualitySize(passages=3, prefill=40, steps=6, needles=2)


def words(count: int) -> Text:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (count,), generator=generator).tolist()
    return Text("words", " ".join(f"w{one}" for one in ids))


def folder(path: Path, config: dict[str, object] = LLAMA) -> str:
    place = checkpoint(path, config)
    word_tokenizer(path)
    return place


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(folder(tmp_path_factory.mktemp("llama")), "pretrained")


@pytest.fixture(scope="module")
def quality(loaded: LoadedModel) -> QualityPass:
    return QualityPass(loaded, words(400), size=SIZE)


def test_an_exact_cache_changes_nothing(quality: QualityPass) -> None:
    found = quality.of("dynamic")
    assert found.reason is None
    assert found.kl_divergence == pytest.approx(0, abs=1e-5)
    assert found.perplexity_ratio == pytest.approx(1, abs=1e-4)
    assert (found.top1_agreement, found.token_agreement) == (1.0, 1.0)
    assert (found.parted_passages, found.parted_at) == (0, None)
    assert found.needles_found == found.baseline_needles_found


def test_a_lossy_cache_shows_in_every_number_but_the_baseline(quality: QualityPass) -> None:
    exact, lossy = quality.of("dynamic"), quality.of(FP8)
    assert lossy.kl_divergence is not None and exact.kl_divergence is not None
    assert lossy.kl_divergence > 100 * exact.kl_divergence + 1e-5
    assert lossy.kl_divergence_max is not None
    assert lossy.kl_divergence_max >= lossy.kl_divergence
    assert lossy.perplexity != exact.perplexity
    assert lossy.baseline_perplexity == exact.baseline_perplexity
    assert (lossy.cache, lossy.baseline) == (FP8, "off")


@torch.no_grad()
def test_the_perplexity_without_a_cache_is_that_of_the_model(
    loaded: LoadedModel, quality: QualityPass
) -> None:
    """Of the tokens after those that went through the cache, by the model's own forward."""
    ids = torch.tensor([Encoder(loaded, 0).tokens(words(400).content)[1]])
    starts = [place * (ids.shape[1] - 47) // 2 for place in range(3)]
    losses = []
    for start in starts:
        passage = ids[:, start : start + 47]
        logits = loaded.model(passage).logits[0].log_softmax(-1)
        losses += [-float(logits[place - 1, passage[0, place]]) for place in range(41, 47)]
    found = quality.of("dynamic").baseline_perplexity
    assert found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_only_steps_through_the_cache_are_scored(loaded: LoadedModel) -> None:
    """A wrong cache shows, and the prefill, which needs nothing of it, does not dilute it."""
    one = QualityPass(loaded, words(400), size=QualitySize(passages=1, prefill=40, steps=1))
    assert one.of("dynamic").steps == 1
    assert one.of(FP8).kl_divergence != pytest.approx(0, abs=1e-6)


def test_the_size_and_the_text_are_recorded(loaded: LoadedModel) -> None:
    text = words(400)
    found = measure_quality(loaded, FP8, text, size=SIZE)
    assert (found.text, found.text_sha256) == ("words", text.sha256)
    assert (found.passages, found.prefill_tokens, found.steps, found.new_tokens) == (3, 40, 6, 6)


def test_a_prefill_is_cut_where_the_positions_end(tmp_path: Path, snapshot: object) -> None:
    model = load(folder(tmp_path, GPT2), "pretrained")
    found = measure_quality(
        model, "dynamic", words(400), size=QualitySize(passages=1, prefill=512, steps=5)
    )
    # 64 positions: 58 at once, 5 steps and the token after the last.
    assert found.prefill_tokens == 58
    with pytest.raises(UserError) as caught:
        measure_quality(model, "dynamic", words(400), size=QualitySize(steps=60))
    assert str(caught.value) == snapshot


def test_a_text_that_is_too_short_is_refused(loaded: LoadedModel, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        measure_quality(loaded, FP8, words(20), size=SIZE)
    assert str(caught.value) == snapshot


def test_random_weights_have_no_quality(tmp_path: Path, snapshot: object) -> None:
    model = load(folder(tmp_path), "random")
    found = measure_quality(model, FP8, words(400), size=SIZE)
    assert found.reason == snapshot
    assert (found.kl_divergence, found.perplexity, found.passages) == (None, None, None)


def test_an_encoder_decoder_has_none(tmp_path: Path, snapshot: object) -> None:
    found = measure_quality(load(folder(tmp_path, T5), "pretrained"), "dynamic", words(400))
    assert found.reason is not None and found.reason == snapshot


def test_the_engine_makes_a_row_of_what_goes_wrong(tmp_path: Path) -> None:
    engine = LocalEngine()
    engine.open(key(folder(tmp_path), "pretrained"))
    short = engine.quality(FP8, words(20), SIZE)
    assert short.reason is not None and short.reason.startswith("text: words has ")
    assert engine.quality("offloaded", words(400), SIZE).reason is not None
    assert engine.quality(FP8, words(400), SIZE).reason is None
    engine.close()
