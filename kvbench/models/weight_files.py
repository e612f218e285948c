"""Check weight files: they must be safetensors or GGUF by content, whatever their names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from kvbench.errors import UserError
from kvbench.input_file import read_text
from kvbench.models.source import ModelSource
from kvbench.text import clip

__all__ = ["check_weight_files", "no_pickles"]

_INDEX = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20
_HEADER_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""


def check_weight_files(source: ModelSource, weights: str) -> None:
    """Refuse weights in a folder that are neither safetensors nor GGUF.

    Files of a hub id are not local yet; `no_pickles` covers those too.

    Raises:
        UserError: a file has another format, or the index names one that is missing.
    """
    folder = Path(source.place or "")
    if source.gguf_file is not None:
        file = folder / source.gguf_file
        if _beginning(file)[:4] != b"GGUF":
            raise UserError(
                f"model: {file} is not a GGUF file{_what_it_is(file)}.", kind="not_gguf"
            )
    elif weights == "pretrained" and source.place is not None and folder.is_dir():
        for file in _safetensors(folder):
            if not _is_safetensors(file):
                raise UserError(
                    f"model: {file} is not a safetensors file{_what_it_is(file)}; only safetensors "
                    "and GGUF weights are loaded.",
                    kind="not_safetensors",
                )


@contextlib.contextmanager
def no_pickles() -> Iterator[None]:
    """Refuse to unpickle weights, wherever the library found them: unpickling could run code."""
    load = torch.load

    def refuse(*arguments: Any, **options: Any) -> Any:
        file = arguments[0] if arguments else options.get("f")
        raise UserError(
            f"model: {clip(file, 200)} holds pickled weights, which kvbench does not load.",
            kind="pickled_weights",
        )

    torch.load = refuse
    try:
        yield
    finally:
        torch.load = load


def _safetensors(folder: Path) -> Iterator[Path]:
    # In the order in which Transformers looks for them.
    if (folder / "model.safetensors").exists():
        yield folder / "model.safetensors"
    elif (folder / _INDEX).exists():
        for name in _shards(folder / _INDEX):
            yield folder / name


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index lists, each once."""
    text = read_text(index, _MAX_INDEX_BYTES, "index of weights")
    try:
        names = json.loads(text)["weight_map"].values()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"model: {index} is not a safetensors index.", kind="not_safetensors"
        ) from error
    for name in names:
        if not isinstance(name, str) or not _is_inside(name):
            raise UserError(
                f"model: {index} names {clip(name)!r}, which is not in its folder.",
                kind="bad_weights_index",
            )
        if not (index.parent / name).exists():
            raise UserError(
                f"model: {index} names {clip(name)!r}, which is missing.", kind="bad_weights_index"
            )
    return sorted(set(names))


def _is_inside(name: str) -> bool:
    # Check the name: in the hub's cache each file is a link to somewhere else.
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name.isprintable()


def _is_safetensors(file: Path) -> bool:
    head = _beginning(file)
    size = int.from_bytes(head[:_HEADER_BYTES], "little")
    fits = size <= min(file.stat().st_size - _HEADER_BYTES, _MAX_HEADER_BYTES)
    return fits and head[_HEADER_BYTES : _HEADER_BYTES + 1] == b"{"


def _what_it_is(file: Path) -> str:
    head = _beginning(file)
    if head.startswith(b"version https://git-lfs"):
        return " but a pointer of Git LFS: run `git lfs pull` in its folder"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return " but pickled weights"
    return ""


def _beginning(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise UserError(f"model: {file} is not a regular file.", kind="not_a_file")
        with file.open("rb") as opened:
            return opened.read(64)
    except OSError as error:
        raise UserError(
            f"model: {file} cannot be read: {error.strerror or error}.", kind="unreadable"
        ) from error
