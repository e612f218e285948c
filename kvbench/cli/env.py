"""`kvbench env`: show the machine, the software, and what is missing."""

from __future__ import annotations

from kvbench.cli.options import Debug, Format

__all__ = ["env"]


def env(
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """Print devices, driver, NVML, versions, threads, CPU governor, and what is missing and why."""
    from kvbench import api, console

    console.check_format(output)
    console.show_environment(api.environment(), output)
