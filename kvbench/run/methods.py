"""What a sweep says of the methods that measure its cases, before it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kvbench.analysis.forecast import share_of_trace
from kvbench.analysis.generated import longest_of
from kvbench.methods import cannot
from kvbench.plan.case import Case
from kvbench.plan.plan import Plan

__all__ = ["method_notices"]


def method_notices(plan: Plan, cases: Sequence[Case]) -> tuple[str, ...]:
    """Return a line on a method that was asked for and is not used, or on what trace would save."""
    asked = plan.values("method")
    fallen = [case for case in cases if case.method == "each" and "each" not in asked]
    if fallen:
        wanted = [dataclasses.replace(case, method=name) for case in fallen for name in asked]
        return (
            f"--method {', '.join(asked)} does not work for {', '.join(cannot(wanted))}: every "
            "length is generated separately for the strategies that are compared with it.",
        )
    each = [case for case in cases if case.method == "each"]
    traced = [dataclasses.replace(case, method="trace") for case in each]
    if set(asked) != {"each"} or cannot(traced) or len(longest_of(traced)) == len(traced):
        return ()
    return (
        f"--method trace would take about {share_of_trace(each):.0%} of the time: it reads all "
        "lengths from one generation of the longest.",
    )
