"""How time grows with the number of new tokens: exponents, polynomials, where the cache pays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kvbench.analysis.claims import claim
from kvbench.analysis.summary import CaseSummary, line_key
from kvbench.caches import BASELINE

__all__ = ["BreakEven", "Growth", "break_evens", "growths"]

_MIN_POINTS = 3
_UPPER_SHARE = 0.2
"""The exponent is fitted from this share of the longest length on: below it what does not grow
(the prefill, the overhead of a step) bends the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How the time of one arm grows with the number n of new tokens.

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
        """The case of the shortest length, for what all have in common."""
        return self.cases[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """The number of new tokens from which a cached arm is surely faster.

    Attributes:
        cases: the cached arm's cases, by length.
        new_tokens: the shortest length from which on all measured ones are faster by more than the
            noise; None if there is none in the range measured.
        too_few: whether some length has too few samples for its noise to be known.
    """

    cases: tuple[CaseSummary, ...]
    new_tokens: int | None
    too_few: bool = False


def growths(cases: Iterable[CaseSummary]) -> tuple[Growth, ...]:
    """The growth of each arm that was timed at three lengths or more."""
    lines = (line for line in _lines(cases) if len(line) >= _MIN_POINTS)
    return tuple(_growth(line) for line in lines)


def break_evens(cases: Iterable[CaseSummary]) -> tuple[BreakEven, ...]:
    """Where each cached arm begins to pay, of those that have an uncached partner."""
    lines = _lines(case for case in cases if case.cache != BASELINE and case.speedup is not None)
    return tuple(
        BreakEven(
            cases=line,
            new_tokens=_first_gain(line),
            too_few=not all(map(_noise_is_known, line)),
        )
        for line in lines
    )


def _lines(cases: Iterable[CaseSummary]) -> list[tuple[CaseSummary, ...]]:
    """Timed cases that differ in the length alone, by length."""
    found: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in cases:
        if case.total_s_median:
            found.setdefault(line_key(case), []).append(case)
    return [tuple(sorted(line, key=lambda c: c.max_new_tokens)) for line in found.values()]


def _growth(line: tuple[CaseSummary, ...]) -> Growth:
    from scipy import stats

    tokens = np.array([case.max_new_tokens for case in line], dtype=float)
    times = np.array([case.total_s_median for case in line], dtype=float)
    upper = tokens >= _UPPER_SHARE * tokens[-1]
    # Three points at least: two have no error.
    upper[-_MIN_POINTS:] = True
    fit = stats.linregress(np.log(tokens[upper]), np.log(times[upper]))
    # Times that are all the same have no correlation, and scipy no error for their slope of 0.
    error_of_slope = 0.0 if np.isnan(fit.stderr) else fit.stderr
    margin = stats.t.ppf(0.975, upper.sum() - 2) * error_of_slope
    coefficients, error = _polynomial(tokens, times)
    return Growth(
        cases=line,
        exponent=float(fit.slope),
        exponent_low=float(fit.slope - margin),
        exponent_high=float(fit.slope + margin),
        fitted_from=int(tokens[upper][0]),
        coefficients=coefficients,
        error=error,
    )


def _polynomial(tokens: np.ndarray, times: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Least squares of relative errors, of degree 3 where there are points enough, else lower."""
    degree = min(3, len(tokens) - 2)
    # In units of the longest length, so that the powers are of one size.
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
    """Faster by more than the noise, by the rule of the sentence after a table."""
    return claim(case) == "faster"


def _noise_is_known(case: CaseSummary) -> bool:
    return case.speedup_ci95_low is not None
