"""The recommendation: a sentence for each model, and recommendation.json."""

from __future__ import annotations

import json
from collections.abc import Iterable

from kvbench.analysis.cases import named
from kvbench.analysis.generated import is_sampled
from kvbench.analysis.recommend import Choice, Recommendation
from kvbench.analysis.summary import CaseSummary
from kvbench.plan.axes import AXES, MODEL_AXES
from kvbench.report.units import mib, significant, times
from kvbench.workloads import workload

__all__ = ["dumped", "recommendation_json", "recommendation_sentences"]


def recommendation_sentences(found: Iterable[Recommendation]) -> list[str]:
    """One sentence for each model."""
    return [_sentence(one) for one in found]


def recommendation_json(run: str, found: Iterable[Recommendation]) -> dict[str, object]:
    """The same as data, for recommendation.json."""
    return {"run": run, "models": [_data(one) for one in found]}


def dumped(runs: Iterable[dict[str, object]]) -> str:
    """The whole of recommendation.json."""
    return json.dumps({"format": 1, "runs": list(runs)}, indent=2, ensure_ascii=False) + "\n"


def _sentence(one: Recommendation) -> str:
    case = one.case
    what = (
        f"{case.model} on {case.device}, batch {case.batch_size}, {case.max_new_tokens} new tokens"
        + ", sampled" * is_sampled(case)
    )
    what = ", ".join([what, *named(case, _of_turns(case))])
    parts = [f"fastest: {_fastest(one)}", f"smallest cache: {_smallest(one.smallest)}"]
    if one.smallest_within == one.smallest:
        parts[-1] += ", within 1% perplexity"
    else:
        parts.append(f"smallest within 1% perplexity: {_smallest(one.smallest_within)}")
    return f"Recommended for {what}: {'; '.join(parts)}."


def _fastest(one: Recommendation) -> str:
    choice = one.fastest
    if choice.cache is not None and choice.value is not None:
        return f"{choice.cache} ({times(choice.value)} as fast as {choice.next})"
    if choice.reason == "too_few_rounds":
        return (
            f"unclear ({one.rounds} shared rounds; {len(one.compared)} strategies need at least "
            f"{one.rounds_needed})"
        )
    return "unclear (the differences are within the noise)"


def _smallest(choice: Choice) -> str:
    if choice.cache is not None and choice.value is not None:
        return f"{choice.cache} ({mib(choice.value)} MiB)"
    if choice.reason == "tied" and choice.value is not None:
        return f"several of {mib(choice.value)} MiB"
    return "unknown"


def _of_turns(case: CaseSummary) -> list[str]:
    """Return the axes that say which turn of which conversation a case is; none without turns."""
    if not workload(case.workload).has_turns:
        return []
    return ["workload", *(axis.name for axis in AXES.values() if axis.of_turns)]


def _data(one: Recommendation) -> dict[str, object]:
    case = one.case
    return {
        **{name: getattr(case, name) for name in MODEL_AXES},
        "batch_size": case.batch_size,
        "prompt_tokens": case.prompt_tokens,
        "max_new_tokens": case.max_new_tokens,
        **{name: getattr(case, name) for name in _of_turns(case)},
        "compared": list(one.compared),
        "rounds": one.rounds,
        "rounds_needed": one.rounds_needed,
        "fastest": {
            "cache": one.fastest.cache,
            "reason": one.fastest.reason,
            "ratio_to_next": one.fastest.value and float(significant(one.fastest.value)),
            "next": one.fastest.next,
        },
        "smallest": _size(one.smallest),
        "smallest_within_1_percent_perplexity": _size(one.smallest_within),
    }


def _size(choice: Choice) -> dict[str, object]:
    return {"cache": choice.cache, "reason": choice.reason, "cache_bytes": choice.value}
