"""Bytes of one number of each dtype."""

from __future__ import annotations

from kvbench.errors import UserError
from kvbench.text import clip

__all__ = ["DTYPE_BYTES", "dtype_bytes"]

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def dtype_bytes(dtype: str) -> int:
    """Bytes of one number.

    Raises:
        UserError: the dtype is unknown.
    """
    if dtype not in DTYPE_BYTES:
        raise UserError(f"dtype: '{clip(dtype)}' is not one of {', '.join(DTYPE_BYTES)}.")
    return DTYPE_BYTES[dtype]
