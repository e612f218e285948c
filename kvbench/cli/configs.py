"""`kvbench configs`: list the plans that come with kvbench."""

from __future__ import annotations

from kvbench.cli.options import Debug, Format

__all__ = ["configs"]


def configs(output: Format = "table", debug: Debug = False) -> None:
    """List the shipped plans; `kvbench sweep NAME` runs one.

    Any option of `sweep` overrides a plan's keys: `kvbench sweep gpu --dtype float16`.
    """
    from kvbench import console

    console.check_format(output)
    console.show_configs(output)
