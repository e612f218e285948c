"""Generation: an exact number of tokens, the same with the cache and without."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from kvbench.caches import strategy
from kvbench.measure import generate as generate_module
from kvbench.measure.clock import TokenClock
from kvbench.measure.generate import Generation, generate, generate_options
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Encoder
from kvbench.plan.case import Prompt
from tests.tiny import (
    ARCHITECTURES,
    Config,
    checkpoint,
    config_folder,
    inputs_of,
    load,
    run,
    unloaded,
    word_tokenizer,
)

ARMS = ("off", "dynamic")
PROMPT = [5, 17, 9, 300, 44]
TEXTS = ("w5 w17 w9", "w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18")


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a tokenizer."""
    path = tmp_path_factory.mktemp(kind)
    checkpoint(path, ARCHITECTURES[kind])
    word_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load(str(folder), "pretrained")


def tokens(loaded: LoadedModel, cache: str, count: int, batch_size: int = 1) -> list[list[int]]:
    inputs = inputs_of(loaded, [PROMPT] * batch_size)
    ids: list[list[int]] = run(loaded, inputs, cache, count).new_ids.tolist()
    return ids


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 17])
@pytest.mark.parametrize("cache", ARMS)
def test_exactly_so_many_tokens_come_out(
    model: LoadedModel, cache: str, count: int, batch_size: int
) -> None:
    inputs = inputs_of(model, [PROMPT] * batch_size)
    out = run(model, inputs, cache, count, TokenClock())
    assert out.new_ids.shape == (batch_size, count)
    assert out.new_tokens == len(out.token_times) == count


@pytest.mark.parametrize("batch_size", [1, 3])
def test_both_arms_say_the_same(model: LoadedModel, batch_size: int) -> None:
    without = tokens(model, "off", 40, batch_size)
    assert tokens(model, "dynamic", 40, batch_size) == without
    assert len(set(without[0])) >= 8  # Otherwise equality would prove nothing.


def test_the_prompt_is_no_part_of_the_output(model: LoadedModel) -> None:
    # Equal prefixes: a longer run begins like a shorter one, at the first new token.
    assert tokens(model, "dynamic", 9)[0][:4] == tokens(model, "dynamic", 4)[0]
    assert tokens(model, "dynamic", 1)[0][0] == greedy(model)


def greedy(model: LoadedModel) -> int:
    """The first new token by one forward pass, without `generate`."""
    ids = torch.tensor([PROMPT])
    more: dict[str, Any] = {}
    if model.is_encoder_decoder:
        more["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
    call: Callable[..., Any] = model.model
    with torch.no_grad():
        return int(call(input_ids=ids, **more).logits[0, -1].argmax())


@pytest.mark.parametrize("cache", ARMS)
def test_an_early_end_of_sequence_stops_nothing(
    kind: str, model: LoadedModel, tmp_path: Path, cache: str
) -> None:
    expected = tokens(model, cache, 17)
    end = expected[0][3]
    name = checkpoint(tmp_path, ARCHITECTURES[kind], eos_token_id=end)
    ending = load(name, "pretrained")
    assert ending.config.eos_token_id == end
    assert stops_by_itself(name, 17)
    assert tokens(ending, cache, 17) == expected
    assert tokens(ending, cache, 17, batch_size=3) == expected * 3


def stops_by_itself(name: str, count: int) -> bool:
    """Return whether the checkpoint, as Transformers loads it, stops before this many tokens."""
    seq2seq = AutoConfig.from_pretrained(name).is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    ids = torch.tensor([PROMPT])
    out = auto.from_pretrained(name).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )
    return bool(out.shape[1] - (1 if seq2seq else len(PROMPT)) < count)


@pytest.mark.parametrize("cache", ARMS)
def test_a_padded_row_says_what_it_says_alone(folder: Path, model: LoadedModel, cache: str) -> None:
    encoder = Encoder(model, seed=0)
    both = encoder.encode(Prompt("file:two", TEXTS), 3)
    assert 0 in both.attention_mask
    together = run(model, both, cache, 20).new_ids.tolist()
    alone = [
        run(model, encoder.encode(Prompt.of_text(text), 1), cache, 20).new_ids[0].tolist()
        for text in TEXTS
    ]
    assert alone[0] != alone[1]
    assert together == [alone[0], alone[1], alone[0]]


@pytest.mark.parametrize("cache", ARMS)
def test_stamps_increase_and_end_inside_the_run(model: LoadedModel, cache: str) -> None:
    out = run(model, inputs_of(model, [PROMPT] * 2), cache, 17, TokenClock())
    stamps = (0.0, *out.token_times, out.total_s)
    assert len(out.token_times) == 17
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


def test_without_a_clock_there_are_no_stamps(model: LoadedModel) -> None:
    assert run(model, inputs_of(model, [PROMPT]), "off", 3).token_times == ()


def test_no_cache_is_left_of_a_run_without_one(model: LoadedModel) -> None:
    inputs = inputs_of(model, [PROMPT])
    assert run(model, inputs, "off", 3).cache is None
    assert run(model, inputs, "dynamic", 3).cache is not None


def test_only_without_a_cache_all_positions_are_computed_again(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = decoder_widths(model, monkeypatch)
    inputs = inputs_of(model, [PROMPT])
    first = 1 if model.is_encoder_decoder else len(PROMPT)
    run(model, inputs, "off", 4)
    assert widths == [first, first + 1, first + 2, first + 3]
    widths.clear()
    run(model, inputs, "dynamic", 4)
    assert widths == [first, 1, 1, 1]


def decoder_widths(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each forward pass appends the length of its input."""
    widths: list[int] = []
    name = "decoder_input_ids" if model.is_encoder_decoder else "input_ids"
    original = type(model.model).forward

    @functools.wraps(original)
    def forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        widths.append(keywords[name].shape[1])
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(type(model.model), "forward", forward)
    return widths


def test_the_clock_is_read_after_the_device_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def now() -> float:
        calls.append("read")
        return float(len(calls))

    loaded = load(config_folder(tmp_path, ARCHITECTURES["gpt2"]))
    clock = type("Clock", (), {"perf_counter": staticmethod(now)})
    monkeypatch.setattr(generate_module, "time", clock)
    out = generate(
        loaded,
        inputs_of(loaded, [PROMPT]),
        strategy("dynamic"),
        2,
        clock=None,
        synchronise=lambda: calls.append("synchronise"),
    )
    assert calls == ["synchronise", "read", "synchronise", "read"]
    assert out.total_s == 2.0


def generation_of(rows: list[list[int]]) -> Generation:
    return Generation(total_s=1.0, token_times=(), new_ids=torch.tensor(rows), cache=None)


def test_the_hash_is_that_of_the_ids_row_by_row() -> None:
    # printf '\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0' | sha256sum
    assert generation_of([[1, 2]]).output_sha256 == "0c730b69905c5ef7"
    assert generation_of([[1], [2]]).output_sha256 == "0c730b69905c5ef7"
    assert generation_of([[2, 1]]).output_sha256 != "0c730b69905c5ef7"


def test_the_hash_does_not_depend_on_layout_or_width() -> None:
    ids = torch.tensor([[1, 3], [2, 4]])
    expected = generation_of([[1, 3], [2, 4]]).output_sha256
    turned = ids.t().contiguous().t()
    assert Generation(1.0, (), turned, None).output_sha256 == expected
    assert Generation(1.0, (), ids.to(torch.int32), None).output_sha256 == expected


def test_a_missing_start_token_is_replaced(tmp_path: Path) -> None:
    config = ARCHITECTURES["t5"] | {"decoder_start_token_id": None, "pad_token_id": 7}
    name = checkpoint(tmp_path, config)
    loaded = load(name, "pretrained")
    assert unloaded(name).config.pad_token_id == 7
    ids = run(loaded, inputs_of(loaded, [PROMPT]), "dynamic", 3).new_ids
    assert ids.shape == (1, 3)


T5GEMMA_MODULE: Config = {
    "model_type": "t5_gemma_module",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 97,
    "bos_token_id": 5,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
T5GEMMA: Config = {"model_type": "t5gemma", "encoder": T5GEMMA_MODULE, "decoder": T5GEMMA_MODULE}


@pytest.mark.parametrize(
    ("changes", "settings", "start"),
    [
        ({}, {}, 5),
        ({"decoder_start_token_id": 3}, {}, 3),
        ({"bos_token_id": 4}, {}, 4),
        ({"decoder_start_token_id": 3}, {"decoder_start_token_id": 6}, 6),
    ],
)
def test_the_start_token_is_the_one_that_transformers_takes(
    tmp_path: Path, changes: Config, settings: Config, start: int
) -> None:
    """T5Gemma names none and masks its padding token (Transformers #41073)."""
    folder = checkpoint(tmp_path, T5GEMMA | changes | {"vocab_size": 97})
    if settings:
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    loaded = load(folder, "pretrained")
    options = generate_options(loaded, strategy("dynamic"), 3)
    assert options.pop("decoder_start_token_id") == start
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = torch.tensor([[7, 8, 9]])
    expected = model.generate(ids, **options).sequences
    assert expected[0, 0] == start
    assert torch.equal(
        run(loaded, inputs_of(loaded, ids.tolist()), "dynamic", 3).new_ids, expected[:, 1:]
    )


def test_without_any_other_the_padding_token_starts(tmp_path: Path) -> None:
    config = ARCHITECTURES["t5"] | {"decoder_start_token_id": None, "pad_token_id": 7}
    loaded = load(checkpoint(tmp_path, config), "pretrained")
    assert generate_options(loaded, strategy("off"), 3)["decoder_start_token_id"] == 7


def test_the_hash_of_the_first_tokens_is_that_of_a_shorter_generation(model: LoadedModel) -> None:
    inputs = inputs_of(model, [PROMPT] * 2)
    long, short = run(model, inputs, "dynamic", 9), run(model, inputs, "dynamic", 4)
    assert long.prefix_sha256(4) == short.output_sha256
    assert long.prefix_sha256(9) == long.output_sha256 != short.output_sha256
