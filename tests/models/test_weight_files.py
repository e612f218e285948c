"""Weights are safetensors or GGUF by their content; nothing else is opened as weights."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kvbench.errors import UserError
from kvbench.models.source import ModelSource
from kvbench.models.weight_files import check_weight_files, no_pickles
from tests.models.test_load import Trap
from tests.tiny import GPT2, checkpoint, config_folder, load

INDEX = "model.safetensors.index.json"


def sharded(path: Path, **names: str) -> str:
    """A checkpoint whose index names its one file; `shard` is the name of that file there."""
    name = checkpoint(path, GPT2)
    whole = path / "model.safetensors"
    shard = names.get("shard", "model-00001-of-00001.safetensors")
    keys = list(load_file(whole))
    whole.rename(path / "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(keys, shard)}
    (path / INDEX).write_text(json.dumps(index))
    return name


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load(name, "pretrained")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_shards_are_loaded(tmp_path: Path) -> None:
    assert load(sharded(tmp_path), "pretrained").parameters > 0


def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    name = sharded(tmp_path / "snapshots" / "abc")
    shard = tmp_path / "snapshots" / "abc" / "model-00001-of-00001.safetensors"
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    shard.rename(blob)
    shard.symlink_to(Path("../../blobs/0123"))
    assert load(name, "pretrained").parameters > 0


def trap(folder: Path, name: str) -> Path:
    """Return pickled weights that leave a trace when they are opened."""
    trace = folder / "it-was-opened"
    (folder / name).write_bytes(pickle.dumps({"lm_head.weight": Trap(trace)}))
    return trace


@pytest.mark.parametrize("shard", ["pytorch_model-00001-of-00001.bin", "weights.safetensors"])
def test_an_index_that_names_pickled_weights_is_refused(
    tmp_path: Path, shard: str, snapshot: object
) -> None:
    name = sharded(tmp_path, shard=shard)
    trace = trap(tmp_path, shard)
    assert refusal(name) == snapshot
    assert not trace.exists()


def test_one_pickle_among_the_shards_is_enough(tmp_path: Path, snapshot: object) -> None:
    name = sharded(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    last = list(index["weight_map"])[-1]
    index["weight_map"][last] = "z.bin"
    (tmp_path / INDEX).write_text(json.dumps(index))
    torch.save({last: torch.zeros(1)}, tmp_path / "z.bin")
    assert refusal(name) == snapshot


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/passwd", "a/../../b", "a\nb"])
def test_an_index_that_leads_out_of_its_folder_is_refused(
    tmp_path: Path, shard: str, snapshot: object
) -> None:
    name = sharded(tmp_path / "model", shard=shard)
    (tmp_path / "model" / "model-00001-of-00001.safetensors").rename(
        tmp_path / "elsewhere.safetensors"
    )
    assert refusal(name) == snapshot


def test_a_shard_that_is_missing_is_named(tmp_path: Path, snapshot: object) -> None:
    assert refusal(sharded(tmp_path, shard="none.safetensors")) == snapshot


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str, snapshot: object) -> None:
    name = sharded(tmp_path)
    (tmp_path / INDEX).write_text(text)
    assert refusal(name) == snapshot


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"",
        pickle.dumps({"weight": 1}, protocol=2),
        b"PK\x03\x04" + bytes(100),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        (2**40).to_bytes(8, "little") + b"{}",
    ],
)
def test_the_content_decides_and_not_the_name(
    tmp_path: Path, content: bytes, snapshot: object
) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert refusal(name) == snapshot


def test_a_gguf_file_that_is_none_is_refused(tmp_path: Path, snapshot: object) -> None:
    trace = trap(tmp_path, "model.gguf")
    assert refusal(str(tmp_path / "model.gguf")) == snapshot
    assert not trace.exists()


def test_random_weights_need_no_file(tmp_path: Path) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    assert load(name, "random").parameters > 0


def test_a_configuration_cannot_name_pickled_weights(tmp_path: Path) -> None:
    # Transformers takes this name from config.json.
    name = checkpoint(tmp_path, GPT2)
    config_folder(tmp_path, GPT2, transformers_weights="adapter_model.bin")
    (tmp_path / "model.safetensors").unlink()
    trace = trap(tmp_path, "adapter_model.bin")
    assert "model: " in refusal(name)
    assert not trace.exists()


def test_nothing_is_unpickled_while_weights_load(tmp_path: Path, snapshot: object) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.bin")
    load = torch.load
    with no_pickles(), pytest.raises(UserError) as caught:
        torch.load(tmp_path / "a.bin")
    assert str(caught.value) == snapshot
    assert torch.load is load
    assert torch.equal(torch.load(tmp_path / "a.bin")["a"], torch.zeros(1))


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [pipe, device])
@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"]
)
def test_a_model_is_made_of_regular_files(
    tmp_path: Path, file: str, put: Callable[[Path], Any], snapshot: object
) -> None:
    name = checkpoint(tmp_path, GPT2)
    put(tmp_path / file)
    assert refusal(name) == snapshot


def test_a_huge_configuration_is_not_read(tmp_path: Path, snapshot: object) -> None:
    name = checkpoint(tmp_path, GPT2)
    with (tmp_path / "config.json").open("r+b") as file:
        file.truncate(1 << 33)
    assert refusal(name) == snapshot


def test_a_hub_id_has_no_files_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_weight_files(ModelSource("org/name", "org/name"), "pretrained")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    check_weight_files(ModelSource("here", str(tmp_path)), "pretrained")
