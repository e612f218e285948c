"""Where a model comes from: a name on the command line becomes a place to load from."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from kvbench.catalogue import CATALOGUE, Architecture
from kvbench.errors import UserError, did_you_mean
from kvbench.text import clip

__all__ = ["MAX_CONFIG_BYTES", "ModelSource", "locate", "user_path"]

MAX_CONFIG_BYTES = 16 << 20
"""The largest config.json that is read: labels of classes make some of a megabyte."""

_MAX_JSON_BYTES = 256 << 20
"""Of any other JSON next to it: a tokenizer of many languages has some 30 MiB."""

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


@dataclass(frozen=True)
class ModelSource:
    """A model that was found.

    Attributes:
        name: as the user wrote it.
        place: a hub id or a folder; None for a built-in architecture with random weights.
        gguf_file: the GGUF file in the folder, if that is what holds the weights.
        builtin: the built-in architecture of that name, if any.
    """

    name: str
    place: str | None
    gguf_file: str | None = None
    builtin: Architecture | None = None


def locate(name: str, weights: str) -> ModelSource:
    """Find a model by name.

    Raises:
        UserError: there is no such folder, or the name can be neither a folder nor a hub id.
    """
    if name in CATALOGUE:
        return _builtin(CATALOGUE[name], weights)
    path = user_path(name)
    if path.is_dir():
        return _folder(name, path)
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(name, str(path.parent), gguf_file=path.name)
    if path.is_file():
        raise UserError(f"model: {name} is a file; give its folder, or a .gguf file.")
    if path.exists():
        raise UserError(f"model: {name} is neither a folder nor a regular file.")
    if path.suffix == ".gguf":
        raise UserError(f"model: there is no file {clip(name, 200)!r}.")
    hint = did_you_mean(name, CATALOGUE)
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise UserError(f"model: there is no folder {clip(name, 200)!r}{hint or '.'}")
    if "/" not in name and hint:
        raise UserError(f"model: '{clip(name)}' is not a built-in architecture{hint}")
    return ModelSource(name, name)


def user_path(name: str) -> Path:
    """A name as a path, `~` taken as the user's folder where there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        # No such user, or no home directory.
        return Path(name)


def _builtin(architecture: Architecture, weights: str) -> ModelSource:
    if weights == "random":
        return ModelSource(architecture.name, None, builtin=architecture)
    packaged = _packaged(architecture)
    if packaged is not None:
        return ModelSource(architecture.name, str(packaged.parent), packaged.name, architecture)
    return ModelSource(architecture.name, architecture.hub_id, builtin=architecture)


def _packaged(architecture: Architecture) -> Path | None:
    """The weights inside an installed package, found without importing it."""
    if architecture.package is None:
        return None
    package, file = architecture.package
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    return None


def _folder(name: str, path: Path) -> ModelSource:
    for entry in path.iterdir():
        # The libraries would wait for a pipe for ever, or read a device until memory is full.
        if entry.exists() and not (entry.is_file() or entry.is_dir()):
            raise UserError(f"model: {entry} is not a regular file.")
        limit = MAX_CONFIG_BYTES if entry.name == "config.json" else _MAX_JSON_BYTES
        if entry.suffix == ".json" and entry.is_file() and entry.stat().st_size > limit:
            raise UserError(f"model: {entry} is larger than {limit >> 20} MiB, so it is not read.")
    if (path / "config.json").is_file():
        return ModelSource(name, str(path))
    files = sorted(path.glob("*.gguf"))
    if not files:
        raise UserError(f"model: {name} has neither a config.json nor a .gguf file in it.")
    if len(files) > 1:
        raise UserError(f"model: {name} has {len(files)} GGUF files; name one, such as {files[0]}.")
    return ModelSource(name, str(path), gguf_file=files[0].name)
