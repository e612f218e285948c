"""`kvbench probe`: measure what the devices of this machine read, copy and multiply per second."""

from __future__ import annotations

from typing import Annotated

from kvbench.cli.options import Debug, Format, listed, option

__all__ = ["probe"]


def probe(
    device: Annotated[
        list[str] | None,
        option("cpu, cuda, cuda:1, ...; by default all devices.", "--device", "-d"),
    ] = None,
    output: Format = "table",
    debug: Debug = False,
) -> None:
    """Measure each device's memory bandwidth, FLOP/s and launch overhead, and store them.

    Later sweeps on this machine use the rates for lower bounds and expected times. Takes about 15
    seconds per device; the machine should be idle.

    Exit codes: 0 measured, 2 wrong usage, 130 interrupted.
    """
    from kvbench import api, console
    from kvbench.records.rates import read_rates, store_path, store_problem

    console.check_format(output)
    with console.progress(stderr=output != "table") as view:
        found = api.probe(listed(device), listener=view)
    known = () if store_problem() else read_rates()
    stored = store_path() if all(rates in known for rates in found) else None
    console.show_rates(found, stored, output)
