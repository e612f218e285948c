"""Finding: what the checks of one strategy on one model came to, for run.json and for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from kvbench.records.check import CHECKS, Check, Verdict

__all__ = ["Finding", "findings"]

_WORST_FIRST: tuple[Verdict, ...] = ("fail", "near_tie", "exempt", "skipped", "pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One strategy on one model: the worst verdict of its checks, and what stands behind it.

    Attributes:
        detail: the sentences of the checks that did not pass, else that of the logits.
    """

    model: str
    weights: str
    device: str
    dtype: str
    attention: str
    cache: str
    verdict: Verdict
    detail: str

    @property
    def subject(self) -> str:
        """For people: `dynamic on gpt2 (random, float32, auto) on cpu`."""
        kind = f"{self.weights}, {self.dtype}, {self.attention}"
        return f"{self.cache} on {self.model} ({kind}) on {self.device}"


_SUBJECT = tuple(f.name for f in fields(Finding) if f.name not in ("verdict", "detail"))


def findings(checks: Iterable[Check]) -> tuple[Finding, ...]:
    """One finding for each model and strategy, from its checks of the latest session."""
    by_subject: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        of_it = by_subject.setdefault(tuple(getattr(check, name) for name in _SUBJECT), [])
        if of_it and of_it[-1].session != check.session:
            of_it.clear()
        of_it.append(check)
    return tuple(_finding(of_it) for of_it in by_subject.values())


def _weight(check: Check) -> tuple[bool, bool, float]:
    """The check that the verdict rests on: of the logits, in float32, the largest difference."""
    return check.check == "logits", check.checked_dtype == "float32", check.rms_over_std or 0.0


def _finding(checks: Sequence[Check]) -> Finding:
    verdict = min((c.verdict for c in checks), key=_WORST_FIRST.index)
    # Near-ties in the tokens and a check that found too little memory do not unsay the proof.
    proven = any(c.check == "logits" and c.verdict == "pass" for c in checks)
    if proven and verdict != "fail":
        verdict = "pass"
    # They are written in the order of their names' list: without the last, some were cut off.
    if verdict != "fail" and all(c.check != CHECKS[-1] for c in checks):
        verdict = "skipped"
    told = [c for c in checks if c.verdict == "fail"] or [max(checks, key=_weight)]
    detail = " ".join(dict.fromkeys(c.detail for c in told))
    subject = {name: getattr(checks[0], name) for name in _SUBJECT}
    return Finding(verdict=verdict, detail=detail, **subject)
