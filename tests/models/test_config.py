"""Configurations: what is refused, with which message, and how far positions reach."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import dynamic_module_utils

from kvbench.errors import UserError
from kvbench.models.config import (
    PositionLimit,
    commit_of,
    load_config,
    loading,
    position_limit,
    read_config,
)
from kvbench.models.source import ModelSource, locate
from tests.tiny import BART, GPT2, LLAMA, MISTRAL, OPT, T5, config_folder, hub_cache

CUSTOM = {
    "model_type": "kvbench-test-custom",
    "auto_map": {"AutoConfig": "code.Custom", "AutoModelForCausalLM": "code.CustomModel"},
}

# Everything that the hub's errors read from a response, whichever HTTP library it comes from.
RESPONSE: Any = SimpleNamespace(headers={}, request=None)


def refusal(name: str, weights: str = "random") -> str:
    with pytest.raises(UserError) as caught:
        load_config(locate(name, weights))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("model: ")
    return text


def explained(error: Exception, cause: Exception) -> str:
    """Return what `loading` says about an error that Transformers raised from a cause."""
    with pytest.raises(UserError) as caught, loading(ModelSource("mine", "someone/mine")):
        raise error from cause
    return str(caught.value)


def custom_code(folder: Path) -> tuple[str, Path]:
    """Return a folder whose own code creates a file when it runs, and that file."""
    trace = folder / "it-ran"
    name = config_folder(folder, CUSTOM)
    (folder / "code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig\n"
        f"Path({str(trace)!r}).touch()\n"
        "class Custom(PretrainedConfig):\n"
        "    model_type = 'kvbench-test-custom'\n"
    )
    return name, trace


@pytest.mark.parametrize("config", [GPT2, LLAMA, MISTRAL, OPT, T5, BART])
def test_a_model_that_generates_is_accepted(tmp_path: Path, config: dict[str, Any]) -> None:
    loaded = load_config(locate(config_folder(tmp_path, config), "random"))
    assert loaded.model_type == config["model_type"]


def test_bert_is_refused_as_an_encoder(tmp_path: Path, snapshot: object) -> None:
    text = refusal(config_folder(tmp_path, {"model_type": "bert"}))
    assert text == snapshot


def test_bert_made_a_decoder_is_accepted(tmp_path: Path) -> None:
    name = config_folder(tmp_path, {"model_type": "bert", "is_decoder": True})
    assert load_config(locate(name, "random")).model_type == "bert"


@pytest.mark.parametrize("kind", ["vit", "whisper", "clip"])
def test_a_model_that_writes_no_text_is_refused(
    tmp_path: Path, kind: str, snapshot: object
) -> None:
    text = refusal(config_folder(tmp_path, {"model_type": kind}))
    assert text == snapshot


def test_a_builtin_is_configured_without_any_file() -> None:
    config = read_config(locate("mistral-7b", "random"))
    assert config.model_type == "mistral"
    assert (config.num_hidden_layers, config.sliding_window) == (32, 4096)


def test_a_model_missing_offline_is_told_in_one_sentence(snapshot: object) -> None:
    text = refusal("someone/some-model", "pretrained")
    assert text == snapshot


def test_a_builtin_missing_offline_can_still_be_random(snapshot: object) -> None:
    assert refusal("gpt2", "pretrained") == snapshot


def test_a_gated_model_is_told_apart(snapshot: object) -> None:
    text = explained(OSError("no access"), GatedRepoError("gated", response=RESPONSE))
    assert text == snapshot


def test_a_model_that_the_hub_does_not_have_is_told_apart(snapshot: object) -> None:
    text = explained(OSError("none"), RepositoryNotFoundError("none", response=RESPONSE))
    assert text == snapshot


def test_code_in_a_model_needs_trust_and_is_not_run(tmp_path: Path) -> None:
    name, trace = custom_code(tmp_path)
    assert "--trust-remote-code" in refusal(name)
    assert not trace.exists()


def test_code_beside_a_known_kind_is_not_run(tmp_path: Path) -> None:
    name, trace = custom_code(tmp_path)
    config_folder(tmp_path, GPT2, auto_map=CUSTOM["auto_map"])
    assert type(load_config(locate(name, "random"))).__name__ == "GPT2Config"
    assert not trace.exists()


def test_trusted_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = tmp_path / "modules"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(modules)
    name, trace = custom_code(tmp_path / "model")
    config = load_config(locate(name, "random"), trust_remote_code=True)
    assert type(config).__name__ == "Custom"
    assert trace.exists()


@pytest.mark.parametrize("text", ["{not json", "", "\x00\x01\x02"])
def test_a_corrupt_config_is_told_in_one_sentence(
    tmp_path: Path, text: str, snapshot: object
) -> None:
    (tmp_path / "config.json").write_text(text)
    assert refusal(str(tmp_path)) == snapshot


@pytest.mark.parametrize("text", ["{}", "[]", '{"model_type": "nonesuch"}'])
def test_a_config_of_no_known_kind_is_told_in_one_sentence(
    tmp_path: Path, text: str, snapshot: object
) -> None:
    (tmp_path / "config.json").write_text(text)
    assert refusal(str(tmp_path)) == snapshot


def test_a_config_with_a_wrong_type_is_told_in_one_sentence(tmp_path: Path) -> None:
    assert "n_layer" in refusal(config_folder(tmp_path, GPT2, n_layer="two"))


@pytest.mark.parametrize(
    "name", ["my-safetensors", "trust_remote_code", "my-model_type", "not supported attention"]
)
def test_the_name_of_a_folder_does_not_change_what_is_said(
    tmp_path: Path, name: str, snapshot: object
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text("{not json")
    assert refusal(str(folder)) == snapshot


def test_a_file_that_is_no_gguf_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"garbage")
    assert "GGUF" in refusal(str(tmp_path), "pretrained")


def test_rotary_positions_are_recognised_where_layers_have_their_own() -> None:
    config = load_config(locate("gemma-3-1b", "random"))
    assert position_limit(config) == PositionLimit("rotary", 32768)


def test_the_text_part_of_a_larger_model_gives_the_limit(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "max_position_embeddings": 321}
    name = config_folder(tmp_path, {"model_type": "gemma3", "text_config": text})
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gemma3"
    assert position_limit(load_config(locate(name, "random"))) == PositionLimit("rotary", 321)


def test_a_model_of_images_and_text_is_told_apart(tmp_path: Path, snapshot: object) -> None:
    config = {"model_type": "llava", "text_config": LLAMA}
    text = refusal(config_folder(tmp_path, config))
    assert text == snapshot


@pytest.mark.parametrize(("kind", "text"), [("gemma3", "gemma3_text"), ("llama4", "llama4_text")])
def test_one_that_transformers_loads_as_a_text_model_is_accepted(
    tmp_path: Path, kind: str, text: str
) -> None:
    part = {"model_type": text, "num_hidden_layers": 2}
    config = load_config(
        locate(config_folder(tmp_path, {"model_type": kind, "text_config": part}), "random")
    )
    assert config.model_type == kind


def test_a_config_that_git_lfs_has_not_fetched_is_told(tmp_path: Path, snapshot: object) -> None:
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert refusal(str(tmp_path)) == snapshot


@pytest.mark.parametrize("error", [AssertionError, ZeroDivisionError])
def test_what_a_model_asserts_of_its_sizes_is_told_too(
    error: type[Exception], snapshot: object
) -> None:
    text = explained(error("heads do not divide"), ValueError())
    assert text == snapshot


def test_a_revision_that_the_hub_does_not_have_is_told_apart(snapshot: object) -> None:
    source = ModelSource("someone/mine@v9", "someone/mine", revision="v9")
    with pytest.raises(UserError) as caught, loading(source):
        raise OSError("none") from RevisionNotFoundError("none", response=RESPONSE)
    assert str(caught.value) == snapshot


def test_a_long_reason_is_cut_between_words() -> None:
    text = explained(OSError("word " * 100), ValueError())
    assert text.endswith("word word ...")
    assert len(text) < 250


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a hub cache with a model at a commit and an adapter at another."""
    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    config_folder(tmp_path / "model", GPT2)
    hub_cache(root, "someone/tiny", {COMMIT: tmp_path / "model"}, main=COMMIT, v1=COMMIT)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "someone/tiny"}'
    )
    hub_cache(root, "someone/lora", {COMMIT: tmp_path / "adapter"}, main=COMMIT)
    return root


@pytest.mark.parametrize("name", ["someone/tiny", "someone/tiny@v1", f"someone/tiny@{COMMIT}"])
def test_a_hub_id_means_a_commit(hub: Path, name: str) -> None:
    source = locate(name, "pretrained")
    assert load_config(source).model_type == "gpt2"
    assert commit_of(source) == COMMIT


def test_what_is_not_from_the_hub_has_no_commit(hub: Path, tmp_path: Path) -> None:
    assert commit_of(locate(str(tmp_path / "model"), "random")) is None
    assert commit_of(locate("gpt2", "random")) is None
    assert commit_of(locate("someone/other", "pretrained")) is None


def test_a_revision_missing_offline_is_told_with_its_name(hub: Path, snapshot: object) -> None:
    assert refusal("someone/tiny@v2", "pretrained") == snapshot


def test_an_adapter_on_the_hub_is_told_as_one(hub: Path, snapshot: object) -> None:
    text = refusal("someone/lora", "pretrained")
    assert text == snapshot
