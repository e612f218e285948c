"""The four checks of a cache strategy on a loaded model, in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

from kvbench.caches import BASELINE, CacheStrategy, strategy
from kvbench.errors import UserError
from kvbench.measure.verify.arms import Arms, Exact, run_arms, run_exact
from kvbench.measure.verify.attempt import Outcome, attempt
from kvbench.measure.verify.far import Far
from kvbench.measure.verify.judge import (
    judge_leak,
    judge_logits,
    judge_output,
    judge_shape,
    judge_timed_logits,
    judge_tokens,
    rounding_of,
)
from kvbench.measure.verify.leak import find_leak
from kvbench.measure.verify.outputs import compare_outputs
from kvbench.measure.verify.runs import Work, make_work
from kvbench.models.load import LoadedModel
from kvbench.records.check import CHECKS, Check, CheckName, check_of

__all__ = ["verify", "verify_output"]

T = TypeVar("T")

_BATCHES = ((1, 1), (4, 4))
"""Batch size, and the divisor of the new tokens: the uncached generation takes longest in batch 4.
"""

_COMPILED_BATCHES = _BATCHES[1:]
"""Each shape takes tens of seconds to compile: use one padded batch, and check leaks at the same
shape.
"""

_LEAK_TOKENS = 2


def verify(
    loaded: LoadedModel,
    cache: str,
    *,
    new_tokens: int = 32,
    generations: int = 6,
    seed: int = 0,
    far: Work | None = None,
) -> tuple[Check, ...]:
    """Check that a cache strategy matches the no-cache baseline, on the timed path.

    An exception from the model becomes a row. If the weights are timed in another dtype, they are
    converted to float32 temporarily and restored bit for bit.

    Args:
        loaded: the model.
        cache: name of a strategy other than `off`.
        new_tokens: tokens per sequence in batch 1, a quarter of them in batch 4, and two at least.
            A model with few positions gets fewer.
        generations: how many to run in a row, to detect leaks.
        seed: seed of the prompts' ids.
        far: a long generation whose last positions are checked too.

    Returns:
        Rows in the order of the checks: tokens, logits, shape, leak.

    Raises:
        UserError: no strategy has that name, or it is `off`.
    """
    arm = strategy(cache)
    if not arm.use_cache:
        raise UserError(
            f"verify: '{BASELINE}' is the baseline; name another strategy to check.",
            kind="baseline_alone",
        )
    works = [
        make_work(loaded, batch_size, new_tokens // divisor, seed)
        for batch_size, divisor in (_COMPILED_BATCHES if arm.compiles else _BATCHES)
    ]
    # Read it now: a device that fails during the checks accepts no more tensors.
    leak_work = works[-1] if arm.compiles else make_work(loaded, 1, _LEAK_TOKENS, seed)
    timed = [run_arms(work, arm) for work in works]
    exact, seen_far = run_exact(works, arm, timed, far)
    rows: list[Check] = []
    for work, in_timed, in_float32 in zip(works, timed, exact, strict=True):
        rows += _batch_rows(work, arm, in_timed, in_float32)
    if far is not None and seen_far is not None:
        rows.append(_far_row(far, arm, seen_far))
    outcome = attempt(lambda: judge_leak(find_leak(leak_work, arm, generations), generations))
    rows.append(_row(leak_work, arm, "leak", loaded.key.dtype, outcome))
    return tuple(sorted(rows, key=lambda row: CHECKS.index(row.check)))


def _batch_rows(
    work: Work, arm: CacheStrategy, timed: Arms | Outcome, exact: Exact | Outcome
) -> Iterator[Check]:
    dtype = work.loaded.key.dtype
    row = functools.partial(_row, work, arm)
    yield row("tokens", dtype, _tokens(arm, dtype, timed, exact))
    if dtype != "float32":
        in_float32 = exact if isinstance(exact, Outcome) else exact.arms
        yield row("tokens", "float32", _tokens(arm, "float32", in_float32))
    yield row("logits", "float32", _judged(exact, lambda it: judge_logits(it.arms, arm.lossy)))
    if dtype != "float32":
        yield row("logits", dtype, _timed_logits(arm, timed, exact))
    yield row("shape", dtype, _judged(timed, lambda arms: judge_shape(work, arm, arms)))


def _far_row(far: Work, arm: CacheStrategy, seen: Far | Outcome) -> Check:
    outcome = _judged(seen, lambda it: judge_logits(it, arm.lossy))
    if isinstance(seen, Outcome):
        return _row(far, arm, "logits", "float32", outcome)
    # Memory may not have sufficed for everything that was requested.
    positions = seen.along.shape[1]
    if positions < seen.work.new_tokens:
        outcome.fields["positions"] = positions
    return _row(seen.work, arm, "logits", "float32", outcome)


def verify_output(work: Work, cache: str, case_id: str) -> Check:
    """Check whether rounding explains that a case's tokens differ from those without a cache.

    Args:
        work: the generation of the case; the model is in float32.
        cache: name of the strategy.
        case_id: the id of the case.
    """
    arm = strategy(cache)
    outcome = attempt(lambda: judge_output(compare_outputs(work, arm)))
    outcome.fields["case_id"] = case_id
    return _row(work, arm, "output", "float32", outcome)


def _judged(seen: T | Outcome, judge: Callable[[T], Outcome]) -> Outcome:
    """Return the verdict on the observations, or what prevented them."""
    return seen if isinstance(seen, Outcome) else attempt(lambda: judge(seen))


def _tokens(
    arm: CacheStrategy, dtype: str, arms: Arms | Outcome, exact: Exact | Outcome | None = None
) -> Outcome:
    def judge(arms: Arms) -> Outcome:
        rounding = arms.floor.rms if exact is None else rounding_of(arms, exact)
        return judge_tokens(arms, dtype, arm.lossy, rounding)

    return _judged(arms, judge)


def _timed_logits(arm: CacheStrategy, timed: Arms | Outcome, exact: Exact | Outcome) -> Outcome:
    if isinstance(timed, Outcome):
        return timed
    return _judged(exact, lambda it: judge_timed_logits(timed, it, arm.lossy))


def _row(work: Work, arm: CacheStrategy, check: CheckName, dtype: str, outcome: Outcome) -> Check:
    return check_of(
        work.loaded.key,
        arm.name,
        check,
        outcome.verdict,
        outcome.detail,
        checked_dtype=dtype,
        batch_size=work.batch_size,
        prompt_tokens=work.inputs.tokens,
        new_tokens=work.new_tokens,
        **outcome.fields,
    )
