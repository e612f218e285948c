"""Resolve a model name from the command line to a place to load from."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from kvbench.catalogue import CATALOGUE, Architecture
from kvbench.errors import UserError, did_you_mean
from kvbench.text import clip

__all__ = [
    "MAX_CONFIG_BYTES",
    "ModelSource",
    "check_weights",
    "is_adapter",
    "locate",
    "refuse_pointer",
    "refuse_pointers",
    "user_path",
]

MAX_CONFIG_BYTES = 16 << 20
"""The largest config.json that is read: class labels make some of them a megabyte."""

_MAX_JSON_BYTES = 256 << 20
"""The limit for other JSON files: a tokenizer of many languages takes some 30 MiB."""

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_REVISION = re.compile(r"\w[\w./-]{0,199}", re.ASCII)

_POINTER = b"version https://git-lfs.github.com/spec/"
"""The start of the small text file that Git LFS puts in place of a large one."""


@dataclass(frozen=True)
class ModelSource:
    """A model that was found.

    Attributes:
        name: as the user wrote it.
        place: a hub id or a folder; None for a built-in architecture with random weights.
        gguf_file: the GGUF file in the folder, if that holds the weights.
        builtin: the built-in architecture of that name, if any.
        revision: the branch, tag or commit of a hub id; None for the default branch.
    """

    name: str
    place: str | None
    gguf_file: str | None = None
    builtin: Architecture | None = None
    revision: str | None = None

    @property
    def hub_name(self) -> str:
        """The hub id with its revision, for display."""
        return f"{self.place}@{self.revision}" if self.revision else str(self.place)

    @property
    def folder(self) -> Path | None:
        """The model's local folder; None for a hub id or a configuration alone."""
        if self.place is None or not Path(self.place).is_dir():
            return None
        return Path(self.place)


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
        raise UserError(
            f"model: {name} is a file; give its folder, or a .gguf file.", kind="not_a_model"
        )
    if path.exists():
        raise UserError(
            f"model: {name} is neither a folder nor a regular file.", kind="not_a_model"
        )
    if path.suffix == ".gguf":
        raise UserError(f"model: no such file: {clip(name, 200)!r}.", kind="not_found")
    hub_id, at, revision = name.partition("@")
    hint = did_you_mean(hub_id, CATALOGUE)
    if not _HUB_ID.fullmatch(hub_id) or name.startswith("."):
        raise UserError(
            f"model: no such folder: {clip(name, 200)!r}{hint or '.'}", kind="not_found"
        )
    if at and not _REVISION.fullmatch(revision):
        raise UserError(
            f"model: '{clip(revision)}' is not a branch, tag or commit; write {hub_id}@main.",
            kind="bad_revision",
            revision=revision,
        )
    if hub_id in CATALOGUE:
        return ModelSource(name, CATALOGUE[hub_id].hub_id, revision=revision)
    if "/" not in hub_id and hint:
        raise UserError(
            f"model: '{clip(hub_id)}' is not a built-in architecture{hint}",
            kind="unknown_choice",
            option="model",
            value=hub_id,
        )
    return ModelSource(name, hub_id, revision=revision or None)


def is_adapter(name: str, adapter_config: Path) -> str:
    """Return the sentence saying that a model is only an adapter, and for which model."""
    base = _base_of(adapter_config)
    return (
        f"model: {name} is an adapter{f' for {clip(base)}' if base else ''}, not a full model: "
        "merge it into its base model (PEFT's merge_and_unload) and use the merged folder."
    )


def check_weights(source: ModelSource) -> None:
    """Refuse a local folder without its weights, before anything is loaded.

    Raises:
        UserError: the files are Git LFS pointers, or only an adapter.
    """
    refuse_pointers(source, source.gguf_file or "*.safetensors")
    folder = source.folder
    if folder is None or source.gguf_file is not None:
        return
    adapter = folder / "adapter_config.json"
    whole = any(folder.glob("model*.safetensors*"))
    if adapter.is_file() and not whole:
        raise UserError(is_adapter(source.name, adapter), kind="is_adapter")


def refuse_pointers(source: ModelSource, *patterns: str) -> None:
    """Refuse files of a local folder that Git LFS has not fetched yet.

    Raises:
        UserError: a file that matches a pattern is a pointer.
    """
    if source.folder is None:
        return
    for path in sorted(path for pattern in patterns for path in source.folder.glob(pattern)):
        refuse_pointer(path)


def refuse_pointer(path: Path) -> None:
    """Refuse a file that Git LFS has not fetched yet.

    Raises:
        UserError: it is a pointer instead of the file.
    """
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(
                f"model: {path} is a Git LFS pointer, not the file itself: run `git lfs pull` in "
                f"{path.parent}.",
                kind="lfs_pointer",
            )


def user_path(name: str) -> Path:
    """Return a name as a path, with `~` expanded to the user's folder if there is one."""
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
    """Return the weights inside an installed package, without importing it."""
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
        # The libraries would wait for a pipe forever, or read a device until memory is full.
        if entry.exists() and not (entry.is_file() or entry.is_dir()):
            raise UserError(f"model: {entry} is not a regular file.", kind="not_a_file")
        limit = MAX_CONFIG_BYTES if entry.name == "config.json" else _MAX_JSON_BYTES
        if entry.suffix == ".json" and entry.is_file() and entry.stat().st_size > limit:
            raise UserError(
                f"model: {entry} is larger than {limit >> 20} MiB; refusing to read it.",
                kind="too_large",
            )
    if (path / "config.json").is_file():
        return ModelSource(name, str(path))
    files = sorted(path.glob("*.gguf"))
    if not files:
        if (path / "adapter_config.json").is_file():
            raise UserError(is_adapter(name, path / "adapter_config.json"), kind="is_adapter")
        raise UserError(
            f"model: {name} contains neither a config.json nor a .gguf file.", kind="not_a_model"
        )
    if len(files) > 1:
        raise UserError(
            f"model: {name} has {len(files)} GGUF files; choose one, such as {files[0]}.",
            kind="several_ggufs",
        )
    return ModelSource(name, str(path), gguf_file=files[0].name)


def _base_of(adapter_config: Path) -> str | None:
    """Return the base model that an adapter names."""
    try:
        config = json.loads(adapter_config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # The sentence is correct without it.
        return None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return base if isinstance(base, str) and base else None
