"""Tests of what kvbench/measure/verify reports where tokens diverge: a tie, or different work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.caches import strategy
from kvbench.measure.verify import verify
from kvbench.measure.verify.compare import Distance, distance, partings
from kvbench.measure.verify.runs import Run, Work, forced, greedy, make_work, one_forward
from kvbench.models.load import LoadedModel
from kvbench.records.check import Check, failed
from tests.tiny import GPT2, LLAMA, T5, config_folder, load

OFF, DYNAMIC = strategy("off"), strategy("dynamic")
TOKENS = 12
STEP = 5
"""The new token, from 1, at which two logits are equal."""


@contextmanager
def tied(loaded: LoadedModel, off_by: float) -> Iterator[tuple[int, int]]:
    """Give another token the same logit as the chosen one at a step.

    With a cache the second of the two is `off_by` higher, in standard deviations, so the two
    generations choose differently. Return both tokens, the one without a cache first.
    """
    run = greedy(make_work(loaded, 1, TOKENS, 0), OFF)
    chosen = int(run.new_ids[0, STEP - 1])
    twin = next(token for token in range(chosen + 1, 503) if token not in run.new_ids)
    head = loaded.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[twin] = head.weight[chosen]
    shift = off_by * float(run.logits.std())
    cached = False

    def before(_: Any, args: Any, options: dict[str, Any]) -> None:
        nonlocal cached
        cached = options.get("past_key_values") is not None

    def after(_: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        if cached:
            logits[..., twin] += shift
        return logits

    with (
        loaded.model.register_forward_pre_hook(before, with_kwargs=True),
        head.register_forward_hook(after),
    ):
        yield chosen, twin


def tokens_of(checks: tuple[Check, ...], dtype: str = "float32") -> Check:
    return next(c for c in checks if (c.check, c.checked_dtype) == ("tokens", dtype))


def test_a_parting_at_a_tie_is_no_fault(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, LLAMA))
    with tied(loaded, 1e-5) as (chosen, twin):
        checks = verify(loaded, "dynamic", new_tokens=TOKENS, generations=1)
    tokens = tokens_of(checks)
    assert tokens.verdict == "near_tie"
    assert (tokens.parted_row, tokens.parted_at) == (0, STEP)
    assert (tokens.token_off, tokens.token_cached) == (chosen, twin)
    assert tokens.margin == pytest.approx(0, abs=1e-5)
    assert tokens.agreement < 1
    assert {c.verdict for c in checks if c.check == "logits"} == {"pass"}
    assert not failed(checks)


def test_a_parting_that_rounding_does_not_explain_is_one(tmp_path: Path, snapshot: object) -> None:
    loaded = load(config_folder(tmp_path, LLAMA))
    with tied(loaded, 3.0):
        checks = verify(loaded, "dynamic", new_tokens=TOKENS, generations=1)
    tokens = tokens_of(checks)
    assert tokens.verdict == "fail"
    assert tokens.margin_over_std > 1e-3
    assert tokens.detail.rpartition(": ")[2] == snapshot


def test_in_a_coarse_dtype_tokens_are_told_and_not_judged(tmp_path: Path, snapshot: object) -> None:
    loaded = load(config_folder(tmp_path, LLAMA), dtype="bfloat16")
    with tied(loaded, 3.0):
        checks = verify(loaded, "dynamic", new_tokens=TOKENS, generations=1)
    coarse, exact = tokens_of(checks, "bfloat16"), tokens_of(checks, "float32")
    assert (coarse.verdict, exact.verdict) == ("exempt", "fail")
    assert coarse.detail.rpartition(", ")[2] == snapshot


@pytest.fixture(params=[GPT2, LLAMA, T5], ids=["gpt2", "llama", "t5"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Work:
    return make_work(load(config_folder(tmp_path, request.param)), 4, 6, 0)


def test_a_forced_run_says_the_tokens_and_keeps_the_logits_raw(work: Work) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 503, (4, 6), generator=generator)
    runs = [forced(work, arm, ids) for arm in (OFF, DYNAMIC)]
    assert all(torch.equal(run.new_ids, ids) for run in runs)
    full = one_forward(work, runs[0])
    assert full.shape == (4, 6, 503)
    for run in runs:
        torch.testing.assert_close(run.logits, full, rtol=1e-4, atol=1e-4)


def test_prompts_have_rows_of_several_lengths(work: Work) -> None:
    mask = work.inputs.attention_mask
    assert mask.sum(1).tolist() == [8, 6, 4, 2]
    padding = mask[1, -1] if work.loaded.is_encoder_decoder else mask[1, 0]
    assert padding == 0
    assert int(work.inputs.input_ids[mask == 0].sum()) == 0


@pytest.mark.parametrize(
    ("positions", "prompt", "tokens"), [(64, 8, 12), (16, 4, 12), (8, 2, 7), (3, 1, 3), (2, 1, 2)]
)
def test_the_work_fits_into_the_positions(
    tmp_path: Path, positions: int, prompt: int, tokens: int
) -> None:
    loaded = load(config_folder(tmp_path, GPT2, n_positions=positions))
    work = make_work(loaded, 1, TOKENS, 0)
    assert (work.inputs.tokens, work.new_tokens) == (prompt, tokens)
    assert work.inputs.tokens + work.new_tokens - 1 <= positions
    assert greedy(work, OFF).new_ids.shape == (1, tokens)


def run_of(ids: list[list[int]], logits: torch.Tensor) -> Run:
    return Run(torch.tensor(ids), torch.tensor(ids), logits)


def test_each_row_parts_once_and_the_first_comes_first() -> None:
    logits = torch.zeros(3, 3, 4)
    logits[..., 0], logits[..., 1] = 8.0, 6.0
    off = run_of([[0, 0, 0], [0, 0, 0], [0, 0, 0]], logits)
    cached = run_of([[0, 0, 1], [0, 2, 3], [0, 0, 0]], logits)
    found = partings(off, cached)
    assert [(p.row, p.at, p.token_off, p.token_cached) for p in found] == [
        (1, 2, 0, 2),
        (0, 3, 0, 1),
    ]
    # Logits of 8, 6, 0, 0: a mean of 3.5, a variance of (4.5**2 + 2.5**2 + 2 * 3.5**2) / 4. The
    # first took the third token, the second the next best.
    assert [parting.margin for parting in found] == [8.0, 2.0]
    assert found[1].margin_over_std == pytest.approx(2 / 12.75**0.5)


def test_a_distance_is_in_standard_deviations() -> None:
    reference = torch.tensor([[[0.0, 2.0], [100.0, 102.0]]])  # One each, whatever the mean.
    other = reference.clone()
    other[0, 0, 1] += 0.5
    assert distance(other, reference, reference) == Distance(rms=0.25, max=0.5)
    assert distance(reference, reference, reference) == Distance(0.0, 0.0)


def test_logits_that_are_ruled_out_do_not_count() -> None:
    reference = torch.tensor([[[0.0, 2.0, torch.finfo(torch.float32).min, -torch.inf]]])
    other = reference + torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert distance(other, reference, reference) == Distance(rms=0.5, max=0.5)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_infinitely_far(wrong: float) -> None:
    reference = torch.tensor([[[0.0, 2.0, 1.0]]])
    other = torch.tensor([[[0.0, 2.0, wrong]]])
    everywhere = Distance(torch.inf, torch.inf)
    assert distance(other, reference, reference) == everywhere
    assert distance(reference, other, reference) == everywhere
    nothing = torch.full_like(reference, torch.nan)
    assert distance(nothing, nothing, nothing) == everywhere


def test_logits_that_are_all_the_same_do_not_divide_by_zero() -> None:
    flat = torch.ones(1, 1, 4)
    assert distance(flat, flat, flat) == Distance(0.0, 0.0)
    assert distance(flat + 1e-3, flat, flat).rms > 1
