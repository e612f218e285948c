"""The verification result of one strategy on one model, for run.json and for display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvbench.caches import BASELINE
from kvbench.plan.axes import AXES, MODEL_AXES, STRATEGY_AXES, StrategyAxes, values_of
from kvbench.plan.case import ModelKey
from kvbench.records.check import Check, Verdict

__all__ = ["VERIFY_FAILED", "Finding", "findings", "not_asked"]

VERIFY_FAILED = "verify_failed"
"""The flag of samples whose strategy produced different output than no cache."""

_WORK = ("tokens", "logits", "output")
"""The checks that compare the work. The others look at the cache itself: if they are inconclusive,
the work is still verified, and the result says what was not checked.
"""

_UNDECIDED: tuple[Verdict, ...] = ("inconclusive", "not_finished", "not_asked", "skipped")
"""What is not a verdict on the cache. A check that was not made has not passed."""

_WORST_FIRST: tuple[Verdict, ...] = ("near_tie", "exempt", "pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(StrategyAxes):
    """The result of the checks of one strategy on one model, and the reason.

    Attributes:
        detail: the sentences of the checks that did not pass, else the sentence of the logits
            check.
        reach: how far the logits were checked, as pairs of batch size and new tokens; no pair
            covers another.
    """

    verdict: Verdict
    detail: str
    reach: tuple[tuple[int, int], ...] = ()

    @property
    def subject(self) -> str:
        """The display name: `dynamic on gpt2 (random, float32, auto) on cpu`."""
        return f"{self.cache} on {ModelKey(*values_of(self, MODEL_AXES)).label}"


def findings(checks: Iterable[Check]) -> tuple[Finding, ...]:
    """Return one result for each model and strategy, from its checks in the latest session."""
    by_subject: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        of_it = by_subject.setdefault(values_of(check, STRATEGY_AXES), [])
        # An output check belongs to its case, in whichever session that was measured.
        if check.check != "output" and any(_is_older(one, check) for one in of_it):
            of_it[:] = [one for one in of_it if one.check == "output"]
        of_it.append(check)
    return tuple(_finding(of_it) for of_it in by_subject.values())


def _is_older(one: Check, than: Check) -> bool:
    return one.check != "output" and one.session != than.session


def _weight(check: Check) -> tuple[bool, bool, float]:
    """Return the decisive check: logits, in float32, with the largest difference."""
    return check.check == "logits", check.checked_dtype == "float32", check.rms_over_std or 0.0


def not_asked(cases: Iterable[Mapping[str, Any]], found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return a result for each strategy in a run's cases that has none in `found`."""
    known = {values_of(one, STRATEGY_AXES) for one in found}
    subjects = dict.fromkeys(
        tuple(case.get(name, AXES[name].legacy) for name in STRATEGY_AXES)
        for case in cases
        if case.get("cache", BASELINE) != BASELINE
    )
    return tuple(
        Finding(
            verdict="not_asked",
            detail="The output was not checked (--no-verify).",
            **dict(zip(STRATEGY_AXES, subject, strict=True)),
        )
        for subject in subjects
        if subject not in known
    )


def _finding(checks: Sequence[Check]) -> Finding:
    verdict = _verdict(checks)
    subject = {name: getattr(checks[0], name) for name in STRATEGY_AXES}
    return Finding(
        verdict=verdict, detail=_detail(verdict, checks), reach=_reach(checks), **subject
    )


def _reach(checks: Iterable[Check]) -> tuple[tuple[int, int], ...]:
    """Return what was checked and passed, without pairs covered by larger ones; longest first."""
    sizes = {
        (check.batch_size, check.new_tokens)
        for check in checks
        if (check.check, check.checked_dtype, check.verdict) == ("logits", "float32", "pass")
        and check.batch_size is not None
        and check.new_tokens is not None
    }
    largest = [
        (batch, tokens)
        for batch, tokens in sizes
        if not any((b, t) != (batch, tokens) and b >= batch and t >= tokens for b, t in sizes)
    ]
    return tuple(sorted(largest, key=lambda size: size[::-1], reverse=True))


def _verdict(checks: Sequence[Check]) -> Verdict:
    found = {check.verdict for check in checks}
    if "fail" in found:
        return "fail"
    # It is made last: without it, the checks were cut short.
    if "not_finished" in found or all(check.check != "leak" for check in checks):
        return "not_finished"
    work = [check for check in checks if check.check in _WORK]
    logits = {check.verdict for check in work if check.check == "logits"}
    # Each batch is verified separately: one that passed says nothing about another.
    if not logits or any(check.verdict in _UNDECIDED for check in work):
        if any(check.verdict == "near_tie" for check in work):
            return "near_tie"
        return "not_asked" if {check.verdict for check in work} == {"not_asked"} else "inconclusive"
    # A near-tie in the tokens does not invalidate the verification.
    return next(one for one in _WORST_FIRST if one in logits)


def _detail(verdict: Verdict, checks: Sequence[Check]) -> str:
    if verdict == "fail":
        return _sentences(check.detail for check in checks if check.verdict == "fail")
    undecided = [check for check in checks if check.verdict in _UNDECIDED]
    if verdict in _UNDECIDED or verdict == "near_tie":
        told = [check for check in undecided if check.check in _WORK] or undecided
        return _sentences(map(_placed, told)) or max(checks, key=_weight).detail
    # One batch is enough: what is unknown about a cache's shape rarely differs in another batch.
    first = {check.check: check for check in reversed(undecided)}
    ties = (check.detail for check in checks if _is_tie_of_samples(check))
    return _sentences([max(checks, key=_weight).detail, *ties, *map(_placed, first.values())])


def _is_tie_of_samples(check: Check) -> bool:
    return check.check == "output" and check.verdict == "near_tie"


def _placed(check: Check) -> str:
    """Return the sentence of an undecided check, with its place."""
    batch = "" if check.batch_size is None else f" at batch {check.batch_size}"
    return f"No verdict on the {check.check}{batch}: {check.detail}"


def _sentences(texts: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(texts))
