"""Prompts: texts and fixed ids become rows of one width, with the attention mask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kvbench.catalogue import CATALOGUE, DEFAULT_PROMPT
from kvbench.errors import UserError
from kvbench.models.positions import PositionLimit
from kvbench.models.prompts import Encoder, Inputs, check_prompt
from kvbench.models.source import locate
from kvbench.plan.case import Prompt
from tests.tiny import GPT2, LLAMA, T5, config_folder, key, load, unloaded, word_tokenizer

SHORT, LONG = "w5 w17", "w7 w8 w9 w10"
TWO = Prompt("file:two", (SHORT, LONG))

NO_LIMIT = PositionLimit("none")


@pytest.fixture
def decoder(tmp_path: Path) -> Encoder:
    name = config_folder(tmp_path, GPT2)
    word_tokenizer(tmp_path)
    return Encoder(unloaded(name), seed=0)


@pytest.fixture
def encoder_decoder(tmp_path: Path) -> Encoder:
    name = config_folder(tmp_path, T5)
    word_tokenizer(tmp_path)
    return Encoder(unloaded(name), seed=0)


def lists(inputs: Inputs) -> tuple[list[list[int]], list[list[int]]]:
    assert inputs.input_ids.dtype == inputs.attention_mask.dtype == torch.int64
    return inputs.input_ids.tolist(), inputs.attention_mask.tolist()


def fixed(name: str, tokens: int, seed: int = 0, batch_size: int = 1) -> list[list[int]]:
    inputs = Encoder(unloaded(name), seed).encode(Prompt.of_tokens(tokens), batch_size)
    assert inputs.attention_mask.tolist() == [[1] * tokens] * batch_size
    return inputs.input_ids.tolist()


def test_a_decoder_is_padded_on_the_left(decoder: Encoder) -> None:
    ids, mask = lists(decoder.encode(TWO, 2))
    assert [row[2:] for row in ids] == [[5, 17], [9, 10]]
    assert ids[1] == [7, 8, 9, 10]
    assert mask == [[0, 0, 1, 1], [1, 1, 1, 1]]


def test_an_encoder_is_padded_on_the_right(encoder_decoder: Encoder) -> None:
    ids, mask = lists(encoder_decoder.encode(TWO, 2))
    assert [row[:2] for row in ids] == [[5, 17], [7, 8]]
    assert mask == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_padding_counts_as_length(decoder: Encoder) -> None:
    assert decoder.encode(TWO, 2).tokens == 4
    assert decoder.encode(TWO, 1).tokens == 2


def test_padding_is_an_id_of_the_vocabulary(decoder: Encoder) -> None:
    ids = decoder.encode(TWO, 2).input_ids
    assert int(ids.min()) >= 0
    assert int(ids.max()) < GPT2["vocab_size"]


def test_a_batch_takes_its_texts_in_turn(decoder: Encoder) -> None:
    rows = decoder.encode(TWO, 5).input_ids[:, 2:].tolist()
    assert rows == [[5, 17], [9, 10], [5, 17], [9, 10], [5, 17]]


def test_one_text_fills_the_batch(decoder: Encoder) -> None:
    ids, mask = lists(decoder.encode(Prompt.of_text(SHORT), 3))
    assert ids == [[5, 17]] * 3
    assert mask == [[1, 1]] * 3


def test_a_text_without_tokens_is_refused(decoder: Encoder) -> None:
    with pytest.raises(UserError) as caught:
        decoder.encode(Prompt.of_text(""), 1)
    assert caught.value.kind == "prompt_empty"


def test_a_broken_tokenizer_is_told_in_one_sentence(tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "tokenizer.json").write_text("{not json")
    with pytest.raises(UserError) as caught:
        Encoder(unloaded(name), seed=0).encode(Prompt.of_text(SHORT), 1)
    assert "\n" not in str(caught.value)


def test_inputs_are_on_the_device_of_the_model(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, GPT2))
    inputs = Encoder(loaded, seed=0).encode(Prompt.of_tokens(3), 1)
    assert inputs.input_ids.device == inputs.attention_mask.device == loaded.device


def test_fixed_ids_are_those_of_the_seed(tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    first = fixed(name, 50, seed=3)
    torch.manual_seed(99)
    assert fixed(name, 50, seed=3) == first
    assert fixed(name, 50, seed=4) != first


def test_fixed_ids_are_the_same_in_each_row(tmp_path: Path) -> None:
    rows = fixed(config_folder(tmp_path, GPT2), 20, batch_size=3)
    assert rows[0] == rows[1] == rows[2]
    assert len(rows) == 3
    assert len(rows[0]) == 20


@pytest.mark.parametrize("seed", range(3))
def test_fixed_ids_fill_the_vocabulary_and_stay_inside(tmp_path: Path, seed: int) -> None:
    ids = fixed(config_folder(tmp_path, GPT2, vocab_size=11), 1000, seed)[0]
    assert set(ids) == set(range(11))


def test_unknown_text_for_a_random_builtin_is_refused(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        check_prompt(locate("gpt2", "random"), Prompt.of_text("Something else"), NO_LIMIT)
    assert str(caught.value) == snapshot


def test_one_unknown_text_among_known_ones_is_refused() -> None:
    prompt = Prompt("file:x", (DEFAULT_PROMPT, "Something else"))
    with pytest.raises(UserError):
        check_prompt(locate("smollm2-135m", "random"), prompt, NO_LIMIT)


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_builtin_takes_the_default_prompt_and_fixed_ids(name: str) -> None:
    source = locate(name, "random")
    check_prompt(source, Prompt.of_text(DEFAULT_PROMPT), NO_LIMIT)
    check_prompt(source, Prompt.of_tokens(7), NO_LIMIT)
    encoder = Encoder(unloaded(name), seed=0)
    assert encoder.encode(Prompt.of_text(DEFAULT_PROMPT), 2).tokens == 6


def test_a_folder_with_a_tokenizer_may_be_given_any_text(tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    word_tokenizer(tmp_path)
    check_prompt(locate(name, "random"), Prompt("file:two", (SHORT, "Anything")), NO_LIMIT)


def test_a_text_without_tokens_is_refused_beforehand(tmp_path: Path, snapshot: object) -> None:
    name = config_folder(tmp_path, GPT2)
    word_tokenizer(tmp_path)
    with pytest.raises(UserError) as caught:
        check_prompt(locate(name, "random"), Prompt("file:two", (SHORT, "")), NO_LIMIT)
    assert str(caught.value) == snapshot


def test_a_folder_without_a_tokenizer_takes_fixed_ids_alone(tmp_path: Path) -> None:
    source = locate(config_folder(tmp_path, GPT2), "random")
    check_prompt(source, Prompt.of_tokens(7), NO_LIMIT)
    with pytest.raises(UserError) as caught:
        check_prompt(source, Prompt.of_text(SHORT), NO_LIMIT)
    assert caught.value.kind == "no_tokenizer"


TABLE = PositionLimit("absolute", 64, 64)


def test_a_prompt_may_fill_a_table_of_positions_and_no_more(
    tmp_path: Path, snapshot: object
) -> None:
    source = locate(config_folder(tmp_path, GPT2), "random")
    check_prompt(source, Prompt.of_tokens(64), TABLE)
    with pytest.raises(UserError) as caught:
        check_prompt(source, Prompt.of_tokens(65), TABLE)
    assert str(caught.value) == snapshot


def test_the_longest_text_of_a_prompt_counts(tmp_path: Path, snapshot: object) -> None:
    name = config_folder(tmp_path, GPT2)
    word_tokenizer(tmp_path)
    source = locate(name, "random")
    check_prompt(source, Prompt("file:two", ("w5 " * 64, "w5")), TABLE)
    with pytest.raises(UserError) as caught:
        check_prompt(source, Prompt("file:two", ("w5", "w5 " * 65, "w5 w6")), TABLE)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(
    "limit", [PositionLimit("rotary", 64), PositionLimit("none"), PositionLimit("absolute")]
)
def test_without_a_table_a_prompt_may_be_of_any_length(
    tmp_path: Path, limit: PositionLimit
) -> None:
    source = locate(config_folder(tmp_path, GPT2), "random")
    check_prompt(source, Prompt.of_tokens(5000), limit)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("gpt2-xl", [2061, 318, 509, 53, 40918, 30]),
        ("smollm2-135m", [1780, 314, 659, 70, 48002, 47]),
    ],
)
def test_the_default_prompt_has_its_known_ids(name: str, ids: list[int]) -> None:
    inputs = Encoder(unloaded(name), seed=0).encode(Prompt.of_text(DEFAULT_PROMPT), 2)
    assert inputs.input_ids.tolist() == [ids, ids]


def test_the_chinese_prompt_has_its_known_ids() -> None:
    prompt = Prompt.of_text("明天降温了")
    check_prompt(locate("gpt2-chinese-cluecorpussmall", "random"), prompt, NO_LIMIT)
    inputs = Encoder(unloaded("gpt2-chinese-cluecorpussmall"), seed=0).encode(prompt, 1)
    assert inputs.input_ids.tolist() == [[101, 3209, 1921, 7360, 3946, 749, 102]]


@pytest.mark.parametrize("name", CATALOGUE)
def test_known_ids_lie_inside_the_vocabulary(name: str) -> None:
    entry = CATALOGUE[name]
    ids = [one for row in entry.prompt_ids.values() for one in row]
    assert all(0 <= one < entry.config["vocab_size"] for one in ids)


def test_a_key_names_its_device() -> None:
    assert unloaded("gpt2").key == key("gpt2")


@pytest.mark.weights
def test_smollm2_makes_the_ids_of_the_catalogue_and_is_padded_on_the_left() -> None:
    encoder = Encoder(unloaded("smollm2-135m", "pretrained"), seed=0)
    for text, ids in CATALOGUE["smollm2-135m"].prompt_ids.items():
        assert encoder.encode(Prompt.of_text(text), 1).input_ids.tolist() == [list(ids)]
    mask = encoder.encode(Prompt("file:x", ("Hello", DEFAULT_PROMPT)), 2).attention_mask
    assert mask.tolist() == [[0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]]


def test_a_folder_without_a_tokenizer_is_told_in_a_whole_sentence(
    tmp_path: Path, snapshot: object
) -> None:
    source = locate(config_folder(tmp_path, LLAMA), "random")
    with pytest.raises(UserError) as caught:
        check_prompt(source, Prompt.of_text(SHORT), NO_LIMIT)
    assert str(caught.value) == snapshot


def test_a_tokenizer_that_cannot_be_loaded_can_be_done_without(
    tmp_path: Path, snapshot: object
) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "tokenizer.json").write_text("{not json")
    with pytest.raises(UserError) as caught:
        check_prompt(locate(name, "random"), Prompt.of_text(SHORT), NO_LIMIT)
    text = str(caught.value)
    assert text == snapshot


def test_a_tokenizer_that_git_lfs_has_not_fetched_is_told(tmp_path: Path, snapshot: object) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError) as caught:
        check_prompt(locate(name, "random"), Prompt.of_text(SHORT), NO_LIMIT)
    assert str(caught.value) == snapshot


def test_an_encoder_with_a_table_of_its_own_limits_the_prompt(
    tmp_path: Path, snapshot: object
) -> None:
    source = locate(config_folder(tmp_path, GPT2), "random")
    shorter = PositionLimit("absolute", 48, 64)
    check_prompt(source, Prompt.of_tokens(64), shorter)
    with pytest.raises(UserError) as caught:
        check_prompt(source, Prompt.of_tokens(65), shorter)
    assert str(caught.value) == snapshot
