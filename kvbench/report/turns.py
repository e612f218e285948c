"""Say from which turn of a conversation keeping the cache pays off."""

from __future__ import annotations

from collections.abc import Sequence

from kvbench.analysis.cases import named, varied
from kvbench.analysis.statistics import MIN_FOR_INTERVAL
from kvbench.analysis.summary import CaseSummary
from kvbench.analysis.turns import Conversation, conversations, reuse_claim
from kvbench.plan.axes import AXES
from kvbench.report.units import mib, seconds, significant, times

__all__ = ["turn_sentences"]


def turn_sentences(cases: Sequence[CaseSummary]) -> list[str]:
    """Return one sentence for each conversation that was timed with and without a kept cache."""
    found = conversations(cases)
    differing = varied(cases) - {"reuse", "turn"}
    last = [one.last[0] for one in found]
    several = [name for name in ("dtype", "batch_size", "cache") if _varies(last, name)]
    return [_sentence(one, differing, several) for one in found]


def _varies(cases: Sequence[CaseSummary], name: str) -> bool:
    return len({getattr(case, name) for case in cases}) > 1


def _sentence(one: Conversation, differing: frozenset[str], several: Sequence[str]) -> str:
    kept, again = one.last
    assert kept.ttft_s_median is not None and again.ttft_s_median is not None
    told = [*(AXES[name].phrase(getattr(kept, name)) for name in several), *named(kept, differing)]
    subject = ", ".join([f"{kept.model} on {kept.device}", *told])
    if one.pays_from is None:
        if one.too_few:
            rounds = f"{kept.reuse_rounds or 0}, {MIN_FOR_INTERVAL} needed"
            return f"{subject}: too few rounds for a claim about keeping the cache ({rounds})."
        return (
            f"{subject}: keeping the cache does not reliably speed up the first token from any "
            "turn on."
        )
    low, high = (significant(end or 0) for end in _interval(kept))
    begins = f"{subject}: keeping the cache is faster from turn {one.pays_from} on; at turn "
    held = one.held_bytes
    price = "" if held is None else f", for {mib(held)} MiB held per conversation"
    if reuse_claim(kept) == "disagree":
        return (
            f"{begins}{kept.turn}, TTFT is {low} to {high} times shorter (95 % CI; the rounds "
            f"disagree by half or more){price}."
        )
    return (
        f"{begins}{kept.turn}, TTFT is {seconds(kept.ttft_s_median)} instead of "
        f"{seconds(again.ttft_s_median)} ({times(kept.reuse_gain or 0)}, 95 % CI "
        f"{low}\N{EN DASH}{high}){price}."
    )


def _interval(case: CaseSummary) -> tuple[float | None, float | None]:
    return case.reuse_gain_ci95_low, case.reuse_gain_ci95_high
