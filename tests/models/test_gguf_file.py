"""GGUF files that do not state the size of their model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from kvbench.errors import UserError
from kvbench.models.config import load_config
from kvbench.models.gguf_file import refuse_incomplete
from kvbench.models.source import locate

SIZES = {"block_count": 1, "embedding_length": 32, "attention.head_count": 4}


def write(path: Path, sizes: dict[str, int]) -> str:
    """A GGUF file of a Llama with these sizes and one small tensor."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count_kv(4)
    for key, size in sizes.items():
        writer.add_uint32(f"llama.{key}", size)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_a_complete_file_passes(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "m.gguf", SIZES))
    refuse_incomplete("m", path)


def test_the_extra_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    name = write(tmp_path / "m.gguf", SIZES)
    monkeypatch.setattr("kvbench.models.gguf_file.find_spec", lambda package: None)
    with pytest.raises(UserError) as caught:
        load_config(locate(name, "pretrained"))
    assert str(caught.value) == snapshot
    assert caught.value.fields["packages"] == ["gguf", "accelerate"]


@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_is_not_there_is_named(tmp_path: Path, key: str, snapshot: object) -> None:
    # Transformers would use its default: a different model than the one in the file.
    name = write(tmp_path / "m.gguf", {k: v for k, v in SIZES.items() if k != key})
    with pytest.raises(UserError) as caught:
        load_config(locate(name, "pretrained"))
    assert str(caught.value) == snapshot


def test_several_sizes_that_are_not_there_are_named(tmp_path: Path, snapshot: object) -> None:
    path = Path(write(tmp_path / "m.gguf", {}))
    with pytest.raises(UserError) as caught:
        refuse_incomplete("m", path)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize("data", [b"", b"garbage"])
def test_what_is_no_gguf_file_is_left_to_the_loader(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    refuse_incomplete("m", path)
    refuse_incomplete("m", tmp_path / "nothing.gguf")


@pytest.mark.weights
def test_the_installed_smollm2_package_is_complete() -> None:
    source = locate("smollm2-135m", "pretrained")
    assert source.folder is not None and source.gguf_file is not None
    refuse_incomplete("smollm2-135m", source.folder / source.gguf_file)
