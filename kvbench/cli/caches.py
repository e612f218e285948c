"""`kvbench caches`: list the cache strategies, and which of them can run on this machine."""

from __future__ import annotations

from kvbench.cli.options import Debug, Format

__all__ = ["caches"]


def caches(output: Format = "table", debug: Debug = False) -> None:
    """List the cache strategies, their requirements, and whether they run on this machine.

    Requirements on the model are checked when it is loaded.
    """
    from kvbench import api, console

    console.check_format(output)
    console.show_caches(api.environment(), output)
