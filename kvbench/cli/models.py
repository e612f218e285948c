"""`kvbench models`: list the built-in architectures."""

from __future__ import annotations

from typing import Annotated

from kvbench.cli.options import Debug, Format, option

__all__ = ["models"]


def models(
    dtype: Annotated[str, option("Data type of the cache.")] = "float32",
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """List the built-in architectures with their parameters and cache bytes per token."""
    from kvbench import console

    console.check_format(output)
    console.show_models(dtype, output)
