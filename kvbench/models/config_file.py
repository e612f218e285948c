"""Find a model's config.json without loading a model or Transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.input_file import read_text
from kvbench.models.source import (
    MAX_CONFIG_BYTES,
    ModelSource,
    locate,
    refuse_pointer,
    user_path,
)

__all__ = ["find_config"]


def find_config(name: str) -> Mapping[str, Any]:
    """Return the configuration of a built-in architecture, a config.json, a folder or a hub id.

    Raises:
        UserError: there is none, or it cannot be fetched or read.
    """
    if name in CATALOGUE:
        return CATALOGUE[name].config
    path = user_path(name)
    if path.is_file() and path.suffix == ".json":
        return _read(path)
    source = locate(name, "pretrained")
    if source.gguf_file is not None:
        raise UserError(
            f"model: {name} is a GGUF file; give the config.json of the original model.",
            kind="not_a_configuration",
        )
    if path.is_dir():
        return _read(path / "config.json")
    return _read(_from_hub(source))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        refuse_pointer(path)
        config = json.loads(read_text(path, MAX_CONFIG_BYTES, "model's configuration"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}.", kind="unreadable", path=path
        ) from error
    if not isinstance(config, Mapping):
        raise UserError(f"{path}: not a model configuration.", kind="not_a_configuration")
    return config


def _from_hub(source: ModelSource) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(source.place), "config.json", revision=source.revision))
    except (OSError, ValueError) as error:
        # The first line has the message; the rest is addresses.
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"model: the configuration of {source.name} is not available: {reason}.",
            kind="not_found",
        ) from error
