"""What must be said in a GGUF file before it is loaded, found without reading it whole."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from kvbench.errors import UserError

__all__ = ["refuse_incomplete"]

_NEEDED = ("block_count", "embedding_length", "attention.head_count")
"""Every converter writes these; Transformers puts a default for what is left out."""


def refuse_incomplete(name: str, path: Path) -> None:
    """Refuse a GGUF file that lacks a size of its model.

    Raises:
        UserError: which one it lacks; with a default in its place another model would be measured.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            # What it is instead, the loader says.
            return
        # A key is `llama.block_count`, and the four bytes behind it are the type of its value.
        missing = [
            key
            for key in _NEEDED
            if not re.search(rb"\w\." + re.escape(key.encode()) + rb"[\x00-\x0f]{4}", data)
        ]
    if missing:
        raise UserError(
            f"model: the GGUF file {name} lacks {' and '.join(missing)}.", kind="not_gguf"
        )
