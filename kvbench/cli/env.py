"""`kvbench env`: the machine and the software, and what is missing."""

from __future__ import annotations

from typing import Annotated

from kvbench.cli.options import Debug, option

__all__ = ["env"]


def env(
    as_json: Annotated[
        bool, option("Print it as JSON, as it stands in run.json.", "--json")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print devices, driver, NVML, versions, threads and governor, and what is missing and why."""
    import dataclasses

    from kvbench import api, console

    environment = api.environment()
    if as_json:
        console.print_json(dataclasses.asdict(environment), indent=2)
    else:
        console.print_environment(console.make_console(), environment)
