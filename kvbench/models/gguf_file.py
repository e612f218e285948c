"""Check that a GGUF file can be loaded and states its sizes, without reading it whole."""

from __future__ import annotations

import mmap
import re
from importlib.util import find_spec
from pathlib import Path

from kvbench.errors import UserError

__all__ = ["refuse_incomplete"]

_PACKAGES = ("gguf", "accelerate")
_NEEDED = ("block_count", "embedding_length", "attention.head_count")
"""Every converter writes these; Transformers substitutes a default for a missing one."""


def refuse_incomplete(name: str, path: Path) -> None:
    """Refuse a GGUF file that lacks a size of its model.

    Raises:
        UserError: the packages that read such a file are missing; or a size is, and with a
            default in its place a different model would be measured.
    """
    if lacking := [package for package in _PACKAGES if find_spec(package) is None]:
        raise UserError(
            f"model: the weights of {name} are a GGUF file, which needs {' and '.join(lacking)}: "
            "install with pip install 'kvbench[gguf]'.",
            kind="package_missing",
            packages=lacking,
        )
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            # The loader reports what it is instead.
            return
        # A key is `llama.block_count`; the four bytes after it are the type of its value.
        missing = [
            key
            for key in _NEEDED
            if not re.search(rb"\w\." + re.escape(key.encode()) + rb"[\x00-\x0f]{4}", data)
        ]
    if missing:
        raise UserError(
            f"model: the GGUF file {name} lacks {' and '.join(missing)}.", kind="not_gguf"
        )
