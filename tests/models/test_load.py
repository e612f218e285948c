"""Loading: random weights from the seed, real ones from safetensors, and nothing from pickles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.models.config import load_config
from kvbench.models.load import LoadedModel, load_model, parameter_count
from kvbench.models.source import locate
from kvbench.plan.case import AUTO
from tests.tiny import (
    ARCHITECTURES,
    GPT2,
    LLAMA,
    checkpoint,
    config_folder,
    hub_cache,
    inputs_of,
    key,
    load,
    run,
)

PROMPT = [[5, 17, 9, 300]]
# Of sixty; with the models' own settings there are one to eight.
MANY = 9


class Trap:
    """Create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def weights_of(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return dict(loaded.model.state_dict())


def same_weights(one: LoadedModel, other: LoadedModel) -> bool:
    pairs = zip(weights_of(one).values(), weights_of(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def distinct_tokens(loaded: LoadedModel) -> int:
    ids = run(loaded, inputs_of(loaded, PROMPT), "dynamic", 60).new_ids
    return len(set(ids[0].tolist()))


def narrow(name: str) -> dict[str, Any]:
    """Return a built-in architecture with all its layers, but narrow."""
    config = dict(CATALOGUE[name].config)
    if config["model_type"] == "gpt2":
        return config | {"n_embd": 192, "n_head": 4, "vocab_size": 2003}
    sizes = {"hidden_size": 192, "intermediate_size": 384, "vocab_size": 2003}
    return config | sizes | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 48}


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load(name, "pretrained")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_random_weights_are_those_of_the_seed(tmp_path: Path, config: dict[str, Any]) -> None:
    name = config_folder(tmp_path, config)
    first = load(name, seed=7)
    torch.manual_seed(99)
    assert same_weights(first, load(name, seed=7))
    assert not same_weights(first, load(name, seed=8))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_weights_have_the_dtype_of_the_key(tmp_path: Path, dtype: str, weights: str) -> None:
    loaded = load(checkpoint(tmp_path, LLAMA), weights, dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}


def test_a_model_is_ready_to_evaluate(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, GPT2))
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.device == torch.device("cpu")
    assert loaded.seconds > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_attention_is_as_asked(tmp_path: Path, attention: str, weights: str) -> None:
    name = checkpoint(tmp_path, GPT2)
    loaded = load_model(key(name, weights, attention=attention))
    assert loaded.attention == attention


def test_an_attention_that_a_model_lacks_is_told_in_one_sentence(
    tmp_path: Path, snapshot: object
) -> None:
    config = {"model_type": "bloom", "n_layer": 1, "hidden_size": 64, "n_head": 4}
    name = config_folder(tmp_path, config, vocab_size=503)
    with pytest.raises(UserError) as caught:
        load(name, attention="sdpa")
    assert str(caught.value) == snapshot
    assert load(name, attention="eager").attention == "eager"


@pytest.mark.parametrize(("kind", "attention"), [("gpt2", "sdpa"), ("bloom", "eager")])
def test_attention_can_be_left_to_transformers(tmp_path: Path, kind: str, attention: str) -> None:
    config = {"model_type": kind, "n_layer": 1, "hidden_size": 64, "n_head": 4, "vocab_size": 503}
    assert load(config_folder(tmp_path, config), attention=AUTO).attention == attention


def test_only_an_encoder_decoder_is_one(tmp_path: Path) -> None:
    kinds = {name: config_folder(tmp_path / name, keys) for name, keys in ARCHITECTURES.items()}
    found = {name for name, folder in kinds.items() if load(folder).is_encoder_decoder}
    assert found == {"t5"}


def test_tied_weights_are_counted_once(tmp_path: Path) -> None:
    tied = load(config_folder(tmp_path / "tied", LLAMA, tie_word_embeddings=True))
    untied = load(config_folder(tmp_path / "untied", LLAMA, tie_word_embeddings=False))
    embeddings = LLAMA["vocab_size"] * LLAMA["hidden_size"]
    assert untied.parameters - tied.parameters == embeddings
    assert untied.weights_bytes - tied.weights_bytes == 4 * embeddings


def test_weights_bytes_are_those_of_parameters_and_buffers(tmp_path: Path) -> None:
    name = config_folder(tmp_path, LLAMA)
    full, half = load(name), load(name, dtype="bfloat16")
    buffers = sum(b.numel() * b.element_size() for b in full.model.buffers())
    assert buffers > 0  # The frequencies of rotary positions, float32 in any dtype.
    assert full.weights_bytes == 4 * full.parameters + buffers
    assert half.weights_bytes == 2 * half.parameters + buffers


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_greedy_tokens_of_random_weights_vary(tmp_path: Path, config: dict[str, Any]) -> None:
    name = config_folder(tmp_path, config)
    assert distinct_tokens(load(name)) > 8


@pytest.mark.parametrize(
    "name", ["gpt2", "smollm2-135m", "llama-2-7b", "qwen3-0.6b", "mistral-7b", "gemma-3-1b"]
)
def test_greedy_tokens_of_each_kind_of_builtin_vary(tmp_path: Path, name: str) -> None:
    assert distinct_tokens(load(config_folder(tmp_path, narrow(name)))) > 8


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_counts_parameters_as_transformers_does(name: str) -> None:
    config = load_config(locate(name, "random"))
    assert parameter_count(config) == CATALOGUE[name].parameters


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_parameters_are_counted_without_making_any(tmp_path: Path, config: dict[str, Any]) -> None:
    loaded = load(config_folder(tmp_path, config))
    assert parameter_count(load_config(loaded.source)) == loaded.parameters


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_pretrained_weights_are_those_of_the_file(tmp_path: Path, config: dict[str, Any]) -> None:
    loaded = load(checkpoint(tmp_path, config), "pretrained", seed=5)
    saved = load_file(tmp_path / "model.safetensors")
    have = weights_of(loaded)
    assert saved
    assert all(torch.equal(have[name], tensor) for name, tensor in saved.items())


def test_pickled_weights_are_refused_unopened(tmp_path: Path, snapshot: object) -> None:
    trace = tmp_path / "it-was-opened"
    evil = pickle.dumps({"lm_head.weight": Trap(trace)})
    pickle.loads(evil)["lm_head.weight"].close()
    assert trace.exists()  # The trap works.
    trace.unlink()
    name = config_folder(tmp_path / "model", GPT2)
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(evil)
    assert refusal(name) == snapshot
    assert not trace.exists()


def test_a_folder_without_weights_can_only_be_random(tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    assert "--weights random" in refusal(name)
    assert load(name).parameters > 0


def test_a_broken_weights_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    assert refusal(name).startswith("model: ")


def test_weights_of_another_shape_are_told_in_one_sentence(tmp_path: Path) -> None:
    checkpoint(tmp_path, GPT2)
    assert refusal(config_folder(tmp_path, GPT2, n_embd=32)).startswith("model: ")


def test_weights_that_the_file_lacks_are_not_made_up(tmp_path: Path) -> None:
    name = checkpoint(tmp_path, GPT2)
    file = tmp_path / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if ".h.1." not in k}
    save_file(kept, file, {"format": "pt"})
    text = refusal(name)
    assert "lack 12 tensors" in text
    assert "h.1." in text


def test_a_checkpoint_of_the_base_model_lacks_nothing(tmp_path: Path) -> None:
    # As GPT-2's own: names without the prefix of the model with a head, whose weights are tied.
    name = checkpoint(tmp_path, GPT2)
    expected = load(name, "pretrained")
    file = tmp_path / "model.safetensors"
    bare = {k.removeprefix("transformer."): v for k, v in load_file(file).items()}
    bare.pop("lm_head.weight", None)
    save_file(bare, file, {"format": "pt"})
    assert same_weights(load(name, "pretrained"), expected)


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_generation_settings_of_a_checkpoint_are_not_used(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    name = checkpoint(tmp_path, config)
    plain = load(name, "pretrained")
    inputs = inputs_of(plain, PROMPT)
    expected = run(plain, inputs, "dynamic", 20).new_ids
    settings = {"do_sample": True, "temperature": 2.0, "repetition_penalty": 1.8, "top_k": 5}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert torch.equal(run(load(name, "pretrained"), inputs, "dynamic", 20).new_ids, expected)


def test_a_penalty_of_a_checkpoint_would_change_its_tokens(tmp_path: Path) -> None:
    # What the test above prevents: greedy decoding alone does not clear a penalty.
    name = checkpoint(tmp_path, GPT2)
    loaded = load(name, "pretrained")
    inputs = inputs_of(loaded, PROMPT)
    expected = run(loaded, inputs, "dynamic", 20).new_ids
    (tmp_path / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.8}))
    model = AutoModelForCausalLM.from_pretrained(name)
    ids = model.generate(
        inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert not torch.equal(ids[:, len(PROMPT[0]) :], expected)


def test_generation_settings_in_config_json_are_not_used(tmp_path: Path) -> None:
    name = checkpoint(tmp_path, GPT2)
    plain = load(name, "pretrained")
    inputs = inputs_of(plain, PROMPT)
    expected = run(plain, inputs, "dynamic", 20).new_ids
    # Older checkpoints keep them there.
    config_folder(tmp_path, GPT2, repetition_penalty=1.8, no_repeat_ngram_size=1, min_length=50)
    assert torch.equal(run(load(name, "pretrained"), inputs, "dynamic", 20).new_ids, expected)


FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
WIDE = LLAMA | {
    "hidden_size": 128,
    "head_dim": 32,
    "intermediate_size": 256,
    "tie_word_embeddings": False,
}


def quantized_checkpoint(path: Path) -> str:
    """Return a folder whose matrices are stored in eight bits, with a scale per block."""
    name = checkpoint(path, WIDE)
    file = path / "model.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    for key_, tensor in load_file(file).items():
        if "proj" in key_:
            blocks = [-(-size // 128) for size in tensor.shape]
            tensors[key_] = tensor.to(torch.float8_e4m3fn)
            tensors[key_.replace(".weight", ".weight_scale_inv")] = torch.ones(blocks)
        else:
            tensors[key_] = tensor.to(torch.bfloat16)
    save_file(tensors, file, {"format": "pt"})
    config_folder(path, WIDE, quantization_config=FP8)
    return name


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float64", "bfloat16"])
def test_the_dtype_of_a_configuration_does_not_matter(tmp_path: Path, dtype: str) -> None:
    # torch cannot make tensors of some that a config.json may name.
    name = config_folder(tmp_path, LLAMA, torch_dtype=dtype)
    loaded = load(name)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert parameter_count(load_config(loaded.source)) == loaded.parameters


def test_random_weights_of_a_quantized_checkpoint_are_said_not_to_be(
    tmp_path: Path, snapshot: object
) -> None:
    name = config_folder(tmp_path, WIDE, quantization_config=FP8)
    loaded = load(name, dtype="bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.notices == snapshot
    assert load(config_folder(tmp_path / "plain", WIDE)).notices == ()


@pytest.mark.skipif(torch.cuda.is_available(), reason="quantized weights stay so where a GPU is")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_a_cpu_has_to_dequantize_have_the_dtype_of_the_key(
    tmp_path: Path, dtype: str, snapshot: object
) -> None:
    name = quantized_checkpoint(tmp_path)
    loaded = load(name, "pretrained", dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.notices == snapshot
    assert run(loaded, inputs_of(loaded, PROMPT), "dynamic", 4).new_ids.shape == (1, 4)


def test_weights_of_another_vocabulary_are_told_with_both_shapes(
    tmp_path: Path, snapshot: object
) -> None:
    checkpoint(tmp_path, LLAMA, vocab_size=320)
    name = config_folder(tmp_path, LLAMA, vocab_size=300)
    assert refusal(name) == snapshot


def test_weights_that_git_lfs_has_not_fetched_are_told(tmp_path: Path, snapshot: object) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert refusal(name) == snapshot
    assert load(name).parameters > 0


def test_an_adapter_is_not_loaded_as_a_model(tmp_path: Path, snapshot: object) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    assert refusal(name) == snapshot


def test_a_revision_of_a_hub_id_is_loaded_and_its_commit_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = "a" * 40, "b" * 40
    folders = {commit: tmp_path / commit for commit in (old, new)}
    names = {
        commit: checkpoint(path, GPT2, seed) for seed, (commit, path) in enumerate(folders.items())
    }
    hub_cache(tmp_path / "hub", "someone/tiny", folders, main=new, v1=old)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, commit in (("someone/tiny", new), ("someone/tiny@v1", old)):
        loaded = load(name, "pretrained")
        assert loaded.commit == commit
        assert same_weights(loaded, load(names[commit], "pretrained"))
    assert load(names[old], "pretrained").commit is None
    assert not same_weights(load(names[old], "pretrained"), load(names[new], "pretrained"))
