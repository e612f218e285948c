"""The dtypes of weights and caches, and the bytes per number of each."""

from __future__ import annotations

from kvbench.errors import UserError
from kvbench.text import clip

__all__ = ["DTYPES", "DTYPE_BYTES", "dtype_bytes"]

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
DTYPES = tuple(DTYPE_BYTES)


def dtype_bytes(dtype: str) -> int:
    """Return the bytes of one number.

    Raises:
        UserError: the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(
            f"dtype: '{clip(dtype)}' is not one of {', '.join(DTYPES)}.",
            kind="unknown_choice",
            option="dtype",
            value=dtype,
        )
    return DTYPE_BYTES[dtype]
