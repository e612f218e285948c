"""Check that a GGUF file states what must be known before loading, without reading it whole."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from kvbench.errors import UserError

__all__ = ["refuse_incomplete"]

_NEEDED = ("block_count", "embedding_length", "attention.head_count")
"""Every converter writes these; Transformers substitutes a default for a missing one."""


def refuse_incomplete(name: str, path: Path) -> None:
    """Refuse a GGUF file that lacks a size of its model.

    Raises:
        UserError: a size is missing; with a default in its place a different model would be
            measured.
    """
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
