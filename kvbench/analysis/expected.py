"""What runs should have cost: floors, beside what was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvbench.analysis.summary import CaseSummary, pair_key, summarise_cases
from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.records.rates import Rates
from kvbench.records.run import Run, RunInfo
from kvbench.strategies import BASELINE
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.floors import Floor, floor, pays_from
from kvbench.theory.peaks import rates_for

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Expectation", "expectations", "summarise", "summarise_run"]

_HORIZON = 1 << 16
"""As far as it is looked for the length from which a cache pays, in new tokens."""


def summarise(run: Run) -> pd.DataFrame:
    """The summary of a run as a table: a row per case, models as in the plan, then by size."""
    import pandas as pd

    rows = [dataclasses.asdict(case) for case in summarise_run(run)]
    return pd.DataFrame(rows, columns=[field.name for field in dataclasses.fields(CaseSummary)])


def summarise_run(run: Run) -> tuple[CaseSummary, ...]:
    """One summary per case of a run, with the floors that theory knows."""
    cases = summarise_cases(run.samples)
    floors = {case.case_id: _floor(case, run.info, case.max_new_tokens) for case in cases}
    off = {pair_key(case): floors[case.case_id] for case in cases if case.cache == BASELINE}
    return tuple(_with_floor(c, floors[c.case_id], off.get(pair_key(c)), run.info) for c in cases)


@dataclass(frozen=True)
class Expectation:
    """What the floors say of a pair of arms that was measured, at its longest length.

    Attributes:
        off: the uncached case.
        on: the cached case.
        rates: the device's rates.
        overhead_s: seconds of a step that are neither bandwidth nor arithmetic, where these limit
            the cached arm: its median time between tokens. Else null.
        pays_from: the new tokens from which on the cache is expected to be faster by 5 %, with that
            overhead; null if it is not within 65,536.
    """

    off: CaseSummary
    on: CaseSummary
    rates: Rates
    overhead_s: float | None
    pays_from: int | None


def expectations(cases: Sequence[CaseSummary], info: RunInfo) -> tuple[Expectation, ...]:
    """One for each line of cases that differ in length alone, whose both arms have a floor."""
    off = {pair_key(case): case for case in cases if case.cache == BASELINE}
    longest: dict[tuple[object, ...], CaseSummary] = {}
    for case in cases:
        if case.expected_speedup is not None and case.speedup is not None:
            line = (*pair_key(case)[:-1], case.cache)
            if line not in longest or case.max_new_tokens > longest[line].max_new_tokens:
                longest[line] = case
    return tuple(_expectation(off[pair_key(on)], on, info) for on in longest.values())


def _expectation(off: CaseSummary, on: CaseSummary, info: RunInfo) -> Expectation:
    rates = rates_for(info.environment, on.device)
    assert rates is not None
    overhead = on.itl_s_median if on.limited_by == "overhead" else None
    far = [_floor(case, info, _HORIZON) for case in (off, on)]
    assert far[0] is not None and far[1] is not None
    return Expectation(off, on, rates, overhead, pays_from(far[0], far[1], overhead or 0.0))


def _with_floor(
    case: CaseSummary, found: Floor | None, off: Floor | None, info: RunInfo
) -> CaseSummary:
    if found is None:
        return case
    rates = rates_for(info.environment, case.device)
    known: dict[str, Any] = {
        "flops": round(found.flops.sum()),
        "moved_bytes": round(found.moved.sum()),
        "expected_cache_bytes": _cache_bytes(case, info),
        "rates": rates and rates.source,
        "floor_s": found.seconds,
        "expected_s": found.expected_s,
    }
    if off is not None and case.cache != BASELINE:
        known["expected_speedup"] = off.expected_s / found.expected_s
    if case.total_s_median:
        known["mbu"] = found.mbu(case.total_s_median)
        known["mfu"] = found.mfu(case.total_s_median)
        known["limited_by"] = found.limited_by(case.total_s_median)
    return dataclasses.replace(case, **known)


def _floor(case: CaseSummary, info: RunInfo, new_tokens: int) -> Floor | None:
    """The floor of a case, or of a longer one; None where theory cannot tell.

    It needs the model's configuration, which is in run.json or built in, and the device's rates:
    those that were probed before the run, else those published.
    """
    rates = rates_for(info.environment, case.device)
    architecture = _architecture_of(info, case.model)
    if rates is None or architecture is None or case.prompt_tokens is None:
        return None
    sizes = (case.batch_size, case.prompt_tokens, new_tokens)
    # Parts that theory cannot count, a strategy it does not know: no floor is told.
    with contextlib.suppress(UserError):
        return floor(architecture, case.cache, *sizes, case.dtype, rates)
    return None


def _cache_bytes(case: CaseSummary, info: RunInfo) -> int | None:
    architecture = _architecture_of(info, case.model)
    assert architecture is not None and case.prompt_tokens is not None
    sizes = (case.batch_size, case.prompt_tokens, case.max_new_tokens)
    return cache_bytes(architecture, case.cache, *sizes, case.dtype)


def _architecture_of(info: RunInfo, model: str) -> Architecture | None:
    config = info.configs.get(model) or (CATALOGUE[model].config if model in CATALOGUE else None)
    # As text: a mapping cannot be the key of a cache.
    return None if config is None else _architecture(json.dumps(config, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _architecture(config: str) -> Architecture | None:
    with contextlib.suppress(UserError):
        return Architecture.from_config(json.loads(config))
    return None
