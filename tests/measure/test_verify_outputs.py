"""Tests of kvbench/measure/verify/outputs.py and far.py: what a short check does not reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kvbench.caches import strategy
from kvbench.measure.caches import Look
from kvbench.measure.verify import far, verify_output, work_of
from kvbench.measure.verify.attempt import Outcome
from kvbench.measure.verify.compare import UNKNOWN, Distance, Parting
from kvbench.measure.verify.far import Far, look_far
from kvbench.measure.verify.judge import judge_output
from kvbench.measure.verify.outputs import Divergence, Outputs
from kvbench.measure.verify.runs import Work, generate_ids, greedy, make_work, one_forward
from kvbench.models.load import LoadedModel
from tests.measure import verify_faults as faults
from tests.measure.test_verify_ties import STEP, TOKENS, tied
from tests.tiny import GPT2, LLAMA, T5, Config, config_folder, load

OFF, DYNAMIC = strategy("off"), strategy("dynamic")


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return load(config_folder(tmp_path, LLAMA))


# Where samples diverge


def test_a_tie_in_a_sample_is_a_near_tie(loaded: LoadedModel, snapshot: object) -> None:
    with tied(loaded, 1e-5) as (chosen, twin):
        check = verify_output(make_work(loaded, 1, TOKENS, 0), "dynamic", "0123456789")
    assert check.verdict == "near_tie"
    assert (check.check, check.case_id, check.checked_dtype) == ("output", "0123456789", "float32")
    assert (check.parted_row, check.parted_at) == (0, STEP)
    assert (check.token_off, check.token_cached) == (chosen, twin)
    assert check.agreement < 1
    assert check.rms_over_std < 1e-5
    assert check.detail.rpartition(": ")[2] == snapshot


def test_what_rounding_does_not_explain_is_a_failure(loaded: LoadedModel, snapshot: object) -> None:
    with tied(loaded, 3.0):
        check = verify_output(make_work(loaded, 1, TOKENS, 0), "dynamic", "0123456789")
    assert check.verdict == "fail"
    assert check.detail.rpartition(": ")[2] == snapshot


@pytest.mark.parametrize("config", [LLAMA, T5, GPT2], ids=["llama", "t5", "gpt2"])
def test_what_does_not_part_again_is_inconclusive(tmp_path: Path, config: Config) -> None:
    work = make_work(load(config_folder(tmp_path, config)), 4, TOKENS, 0)
    check = verify_output(work, "dynamic", "0123456789")
    assert (check.verdict, check.agreement) == ("inconclusive", 1.0)


def test_each_row_of_a_batch_is_looked_at(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.zero_a_slot(monkeypatch)
    check = verify_output(make_work(loaded, 4, 60, 0), "dynamic", "0123456789")
    assert check.verdict == "fail"
    assert check.parted_at > 1  # The prefill reads nothing from the cache.
    assert check.rms_over_std > 1e-3 > check.rms_limit >= 1e-4


def test_an_error_on_the_way_accuses_nobody(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.fail_with(ValueError("broken"))(monkeypatch)
    check = verify_output(make_work(loaded, 1, 4, 0), "dynamic", "0123456789")
    assert (check.verdict, check.detail) == ("inconclusive", "ValueError: broken")
    assert check.case_id == "0123456789"


def diverged(margin: float, error: float, floor: float = 1e-6) -> Divergence:
    parting = Parting(0, 3, 5, 7, margin, margin)
    of_floor = UNKNOWN if floor != floor else Distance(floor, floor)
    return Divergence((parting,), Distance(error, error), of_floor)


@pytest.mark.parametrize(
    ("margin", "error", "floor", "verdict"),
    [
        (1e-4, 1e-6, 1e-6, "near_tie"),
        # A tie that a wrong cache decides is not a tie.
        (1e-4, 5e-3, 1e-6, "fail"),
        (1e-1, 1e-6, 1e-6, "fail"),
        (1e-1, 5e-3, 1e-2, "inconclusive"),
        (1e-4, 1e-6, float("nan"), "near_tie"),
        (1e-1, 5e-3, float("nan"), "fail"),
        (float("nan"), 1e-6, 1e-6, "fail"),
        (float("nan"), float("inf"), float("inf"), "inconclusive"),
    ],
)
def test_a_parting_is_judged_by_its_margin_and_its_logits(
    margin: float, error: float, floor: float, verdict: str
) -> None:
    assert judge_output(Outputs(0.5, (diverged(margin, error, floor),))).verdict == verdict


def test_the_worst_place_decides() -> None:
    places = diverged(1e-4, 1e-6), diverged(0.5, 1e-2), diverged(1e-4, 1e-2, 1e-2)
    outcome = judge_output(Outputs(0.5, places))
    assert (outcome.verdict, outcome.fields["rms_over_std"]) == ("fail", 1e-2)


# A long check


@pytest.mark.parametrize("config", [LLAMA, T5, GPT2], ids=["llama", "t5", "gpt2"])
@pytest.mark.parametrize("positions", [64, 6, 5, 2])
def test_the_last_positions_are_those_of_one_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Config, positions: int
) -> None:
    monkeypatch.setattr(far, "_POSITIONS", positions)
    work = make_work(load(config_folder(tmp_path, config)), 3, 6, 0)
    seen = look_far(work, DYNAMIC)
    assert isinstance(seen, Far)
    count = min(positions, 6)
    run = greedy(work, DYNAMIC)
    full = one_forward(work, run)
    assert seen.along.shape == (3, count, 503)
    torch.testing.assert_close(seen.full, full[:, -count:])
    torch.testing.assert_close(seen.along, run.logits[:, -count:])
    torch.testing.assert_close(seen.near[:, 0], seen.full[:, seen.at], rtol=1e-4, atol=1e-4)
    assert seen.error.rms < 1e-5 > seen.floor.rms


def test_where_memory_does_not_suffice_less_is_looked_at(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def scarce(work: Work, arm: object, look: Look) -> torch.Tensor:
        tried.append((work.batch_size, work.new_tokens))
        if work.batch_size * work.new_tokens > 50:
            raise torch.OutOfMemoryError("full")
        return generate_ids(work, DYNAMIC, look=look)

    monkeypatch.setattr(far, "generate_ids", scarce)
    seen = look_far(make_work(loaded, 4, 80, 0), DYNAMIC)
    assert tried == [(4, 80), (2, 80), (1, 80), (1, 40)]
    assert isinstance(seen, Far)
    assert (seen.work.batch_size, seen.work.new_tokens) == (1, 40)


def test_where_no_memory_suffices_nothing_is_said(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.fail_with(MemoryError("full"))(monkeypatch)
    assert look_far(make_work(loaded, 2, 40, 0), DYNAMIC) is None


def test_another_error_of_a_long_look_is_no_verdict(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.fail_with(ValueError("broken"))(monkeypatch)
    seen = look_far(make_work(loaded, 2, 40, 0), DYNAMIC)
    assert isinstance(seen, Outcome)
    assert (seen.verdict, seen.detail) == ("inconclusive", "ValueError: broken")


def test_a_case_is_cut_where_its_positions_end(tmp_path: Path) -> None:
    loaded = load(config_folder(tmp_path, GPT2, n_positions=16))
    inputs = make_work(loaded, 1, 2, 0).inputs
    work = work_of(loaded, inputs, 100)
    assert work is not None
    assert inputs.tokens + work.new_tokens - 1 == 16
    longer = replace(inputs, input_ids=torch.ones(1, 17, dtype=torch.long))
    assert work_of(loaded, longer, 100) is None
    assert work_of(loaded, inputs, 1, least=2) is None
