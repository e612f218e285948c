"""`kvbench probe`: what the devices of this machine read, copy and multiply per second."""

from __future__ import annotations

from typing import Annotated

from kvbench.cli.options import Debug, listed, option

__all__ = ["probe"]


def probe(
    device: Annotated[
        list[str] | None,
        option("cpu, cuda, cuda:1, ...; by default every device.", "--device", "-d"),
    ] = None,
    output: Annotated[str, option("table or json.", "--format", "-f")] = "table",
    debug: Debug = False,
) -> None:
    """Measure each device's memory bandwidth, FLOP/s and launch overhead, and store them.

    Sweeps on this machine then record them: they are what floors are made of. About 20 seconds a
    device, which should have nothing else to do meanwhile.

    Exit codes: 0 measured, 2 wrong usage, 130 interrupted.
    """
    import dataclasses

    from kvbench import api, console
    from kvbench.errors import check_choice
    from kvbench.records.rates import read_rates, store_path, store_problem

    check_choice("--format", "format", output, ("table", "json"))
    as_json = output == "json"
    view = console.make_view(console.make_console(stderr=as_json), quiet=False, as_json=False)
    try:
        found = api.probe(listed(device), listener=view)
    finally:
        view.close()
    if as_json:
        console.print_json([dataclasses.asdict(rates) for rates in found], indent=2)
    else:
        known = () if store_problem() else read_rates()
        stored = store_path() if all(rates in known for rates in found) else None
        console.print_rates(console.make_console(), found, stored)
