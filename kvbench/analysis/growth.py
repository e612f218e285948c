"""Fit how time grows with the number of new tokens: exponents, polynomials, break-even points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kvbench.analysis.claims import claim
from kvbench.analysis.statistics import line_fit
from kvbench.analysis.summary import CaseSummary, line_key

__all__ = ["BreakEven", "Growth", "break_evens", "growths"]

_MIN_POINTS = 3
_UPPER_SHARE = 0.2
"""The exponent is fitted above this fraction of the longest length: below it, constant costs (the
prefill, the overhead of a step) bend the line.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How the time of one strategy grows with the number n of new tokens.

    Attributes:
        cases: the line's cases, by length.
        exponent: slope of log time over log n, over the upper range.
        exponent_low: lower end of its 95 % interval.
        exponent_high: upper end of it.
        fitted_from: the shortest length in that fit.
        coefficients: a, b, c, ... of t = a + b n + c n^2 + d n^3, in seconds.
        error: root mean square of the polynomial's relative error.
    """

    cases: tuple[CaseSummary, ...]
    exponent: float
    exponent_low: float
    exponent_high: float
    fitted_from: int
    coefficients: tuple[float, ...]
    error: float

    @property
    def first(self) -> CaseSummary:
        """The case of the shortest length, for the fields that all cases share."""
        return self.cases[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """The number of new tokens from which a cached strategy is reliably faster.

    Attributes:
        cases: the cached strategy's cases, by length.
        new_tokens: the shortest length from which every measured length is faster by more than the
            noise; None if there is none in the measured range.
        too_few: whether some length has too few samples to estimate its noise.
    """

    cases: tuple[CaseSummary, ...]
    new_tokens: int | None
    too_few: bool = False


def growths(cases: Iterable[CaseSummary]) -> tuple[Growth, ...]:
    """Return the growth of each strategy that was timed at three lengths or more."""
    lines = (line for line in _lines(cases) if len(line) >= _MIN_POINTS)
    return tuple(_growth(line) for line in lines)


def break_evens(cases: Iterable[CaseSummary]) -> tuple[BreakEven, ...]:
    """Return where each strategy starts to pay off, if its baseline was timed as well."""
    lines = _lines(case for case in cases if not case.is_baseline and case.speedup is not None)
    return tuple(
        BreakEven(
            cases=line,
            new_tokens=_first_gain(line),
            too_few=not all(map(_noise_is_known, line)),
        )
        for line in lines
    )


def _lines(cases: Iterable[CaseSummary]) -> list[tuple[CaseSummary, ...]]:
    """Return timed cases that differ only in length, by length."""
    found: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in cases:
        if case.total_s_median:
            found.setdefault(line_key(case), []).append(case)
    return [tuple(sorted(line, key=lambda c: c.max_new_tokens)) for line in found.values()]


def _growth(line: tuple[CaseSummary, ...]) -> Growth:
    tokens = np.array([case.max_new_tokens for case in line], dtype=float)
    times = np.array([case.total_s_median for case in line], dtype=float)
    upper = tokens >= _UPPER_SHARE * tokens[-1]
    # At least three points: two give no error.
    upper[-_MIN_POINTS:] = True
    slope, margin = line_fit(np.log(tokens[upper]), np.log(times[upper]), 0.975)
    coefficients, error = _polynomial(tokens, times)
    return Growth(
        cases=line,
        exponent=slope,
        exponent_low=slope - margin,
        exponent_high=slope + margin,
        fitted_from=int(tokens[upper][0]),
        coefficients=coefficients,
        error=error,
    )


def _polynomial(tokens: np.ndarray, times: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Fit by least squares of relative errors: degree 3 with enough points, otherwise lower."""
    degree = min(3, len(tokens) - 2)
    # Scale to the longest length, to keep the powers at a similar size.
    scale = tokens[-1]
    powers = (tokens / scale)[:, None] ** np.arange(degree + 1)
    scaled, *_ = np.linalg.lstsq(powers / times[:, None], np.ones(len(times)), rcond=None)
    error = float(np.sqrt(np.mean((powers @ scaled / times - 1) ** 2)))
    return tuple(float(c) for c in scaled / scale ** np.arange(degree + 1)), error


def _first_gain(line: Sequence[CaseSummary]) -> int | None:
    found = None
    for case in reversed(line):
        if not _is_gain(case):
            break
        found = case.max_new_tokens
    return found


def _is_gain(case: CaseSummary) -> bool:
    """Return whether a case is faster by more than the noise; the summary uses the same rule."""
    return claim(case) == "faster"


def _noise_is_known(case: CaseSummary) -> bool:
    return case.speedup_ci95_low is not None
