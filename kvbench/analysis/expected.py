"""Compare what runs should have cost, by lower bounds and probed rates, with what was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kvbench.analysis.fits import with_fits
from kvbench.analysis.quality import with_quality
from kvbench.analysis.summary import (
    CaseSummary,
    ExpectedFrom,
    line_key,
    pair_key,
    summarize_cases,
)
from kvbench.caches import BASELINE
from kvbench.catalogue import CATALOGUE
from kvbench.device_kinds import kind_of
from kvbench.errors import UserError
from kvbench.records.rates import Rates
from kvbench.records.run import Run, RunInfo
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.floors import Floor, floor, pays_from
from kvbench.theory.peaks import rates_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HORIZON", "Expectation", "Reason", "expectations", "summarize", "summarize_run"]

Reason = Literal["launch", "memory", "compute", "overhead"]
"""What dominates the time of a step: launches that a device waits for, its memory bandwidth, its
arithmetic, or, on a device without launches, overhead beyond these two.
"""

HORIZON = 1 << 16
"""The largest number of new tokens searched for the length at which a cache starts to pay."""


def summarize(run: Run) -> pd.DataFrame:
    """Return the summary of a run as a table: one row per case, in plan order, then by size."""
    import pandas as pd

    rows = [dataclasses.asdict(case) for case in summarize_run(run)]
    return pd.DataFrame(rows, columns=[field.name for field in dataclasses.fields(CaseSummary)])


def summarize_run(run: Run, baseline: str = BASELINE) -> tuple[CaseSummary, ...]:
    """Return one summary per case of a run, with the lower bounds that theory can compute.

    Speedups and ratios compare with the strategy `baseline`.
    """
    known = _Known(run.info)
    cases = with_quality(summarize_cases(run.samples, baseline), run.qualities)
    cases = with_fits(cases, run, known.architecture)
    floors = {case.case_id: known.floor(case, case.max_new_tokens) for case in cases}
    off = {pair_key(case): floors[case.case_id] for case in cases if case.is_baseline}
    return tuple(_with_floor(c, floors[c.case_id], off.get(pair_key(c)), known) for c in cases)


@dataclass(frozen=True)
class Expectation:
    """What theory predicts for a measured strategy and its baseline, at their longest length.

    Attributes:
        off: the uncached case.
        on: the cached case.
        rates: the device's rates.
        overhead_s: seconds of a step that are neither bandwidth nor arithmetic, where these limit
            the cached case: its median time between tokens. Otherwise null.
        pays_from: the number of new tokens from which the cache is expected to be 5 % faster,
            including that overhead; null if beyond `HORIZON`.
        reasons: what dominates the time of a step, without the cache and with it.
        launch_s: seconds that the launches of a step take, on a device that works during launches
            and was probed.
    """

    off: CaseSummary
    on: CaseSummary
    rates: Rates
    overhead_s: float | None
    pays_from: int | None
    reasons: tuple[Reason, Reason]
    launch_s: float | None = None


def expectations(cases: Sequence[CaseSummary], info: RunInfo) -> tuple[Expectation, ...]:
    """Return one expectation per line of cases that differ only in length, with known bounds.

    They are about what a cache saves: there are none if the baseline has a cache itself.
    """
    cases = [case for case in cases if case.baseline == BASELINE]
    off = {pair_key(case): case for case in cases if case.cache == BASELINE}
    longest: dict[tuple[object, ...], CaseSummary] = {}
    for case in cases:
        if case.expected_speedup is not None and case.speedup is not None:
            line = line_key(case)
            if line not in longest or case.max_new_tokens > longest[line].max_new_tokens:
                longest[line] = case
    known = _Known(info)
    return tuple(_expectation(off[pair_key(on)], on, known) for on in longest.values())


def _expectation(off: CaseSummary, on: CaseSummary, known: _Known) -> Expectation:
    rates = known.rates(on.device)
    assert rates is not None
    overhead = on.itl_s_median if on.limited_by == "overhead" else None
    far = [known.floor(case, HORIZON) for case in (off, on)]
    assert far[0] is not None and far[1] is not None
    near = [known.floor(case, case.max_new_tokens) for case in (off, on)]
    assert near[0] is not None and near[1] is not None
    reasons = (_reason(off, near[0]), _reason(on, near[1]))
    pays = pays_from(far[0], far[1], overhead or 0.0)
    return Expectation(off, on, rates, overhead, pays, reasons, near[1].launch_s)


def _reason(case: CaseSummary, found: Floor) -> Reason:
    """Return what dominates the time of a case."""
    far = case.limited_by == "overhead"
    if kind_of(case.device).queues_work:
        # Without a probe, the distance between the time and its lower bound has to do: probably.
        if found.launch_bound or (far and found.launch_s is None):
            return "launch"
    elif far:
        return "overhead"
    return "memory" if found.by_bandwidth else "compute"


class _Known:
    """What theory needs to know about a run; each model and each device is looked up once.

    The configuration of a model is in run.json or built in; the rates of a device are those that
    were probed before the run, else those published.
    """

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self.architecture = functools.cache(self._architecture)
        self.rates = functools.cache(functools.partial(rates_of, info))

    def floor(self, case: CaseSummary, new_tokens: int) -> Floor | None:
        """Return the lower bound of a case, or of a longer one; None if it is unknown."""
        rates, architecture = self.rates(case.device), self.architecture(case.model)
        if rates is None or architecture is None or case.prompt_tokens is None:
            return None
        sizes = (case.batch_size, case.prompt_tokens, new_tokens)
        # Theory cannot count some parts, or does not know the strategy: report no lower bound.
        with contextlib.suppress(UserError):
            return floor(architecture, case.cache, *sizes, case.dtype, rates)
        return None

    def cache_bytes(self, case: CaseSummary) -> int:
        """Return the cache size of a case that has a lower bound."""
        architecture = self.architecture(case.model)
        assert architecture is not None and case.prompt_tokens is not None
        sizes = (case.batch_size, case.prompt_tokens, case.max_new_tokens)
        return cache_bytes(architecture, case.cache, *sizes, case.dtype)

    def _architecture(self, model: str) -> Architecture | None:
        builtin = CATALOGUE[model].config if model in CATALOGUE else None
        config = self._info.configs.get(model) or builtin
        if config is not None:
            with contextlib.suppress(UserError):
                return Architecture.from_config(config)
        return None


def _expected_from(found: Floor) -> ExpectedFrom:
    """Return what an expected speedup is based on, which tells how far to trust it."""
    if found.beyond is None:
        return "bounds"
    return "layers" if found.kernels is None else "products"


def _with_floor(
    case: CaseSummary, found: Floor | None, off: Floor | None, known: _Known
) -> CaseSummary:
    if found is None:
        return case
    rates = known.rates(case.device)
    fields: dict[str, Any] = {
        "flops": round(found.flops.sum()),
        "moved_bytes": round(found.moved.sum()),
        "expected_cache_bytes": known.cache_bytes(case),
        "rates": rates and rates.source,
        "floor_s": found.seconds,
        "expected_s": found.expected_s,
    }
    if off is not None and not case.is_baseline:
        fields["expected_speedup"] = off.expected_s / found.expected_s
        fields["expected_from"] = _expected_from(found)
    if case.total_s_median:
        fields["mbu"] = found.mbu(case.total_s_median)
        fields["mfu"] = found.mfu(case.total_s_median)
        fields["limited_by"] = found.limited_by(case.total_s_median)
    return dataclasses.replace(case, **fields)
