"""Sweeps of tiny models with faults that show only in a long generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvbench import api
from kvbench.plan.plan import Plan
from kvbench.records.finding import VERIFY_FAILED
from kvbench.records.run import Run, load_checks
from tests.in_process import InProcess
from tests.measure import verify_faults as faults
from tests.tiny import GPT2, LLAMA, config_folder


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take longer than everything else here."""
    monkeypatch.setattr("kvbench.run.session.build", lambda *_: None)


def sweep(path: Path, config: Any = LLAMA, **keys: Any) -> Run:
    known = {
        "model": [config_folder(path / "model", config)],
        "weights": "random",
        "device": ["cpu"],
        "prompt_tokens": 8,
        "max_new_tokens": [100],
        "repeats": 1,
    }
    return api.sweep(Plan.parse(known | keys), out=path, name="run", engine=InProcess())


def test_a_slot_that_is_zeroed_late_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.zero_a_late_slot(monkeypatch)
    run = sweep(tmp_path, batch_size=[4])
    (finding,) = run.info.findings
    assert finding.verdict == "fail"
    # The standard check does not reach it.
    short, far = (
        {check.verdict for check in load_checks(run.path) if is_far(check) is far}
        for far in (False, True)
    )
    assert (short, far) == ({"pass"}, {"fail"})
    flags = {sample.flags for sample in run.samples if sample.cache == "dynamic"}
    assert all(VERIFY_FAILED in (text or "") for text in flags)


def is_far(check: Any) -> bool:
    return check.check in ("logits", "output") and (check.new_tokens or 0) > 64


def test_where_it_is_not_looked_at_the_tokens_of_the_samples_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hashes of the samples differ: the case's logits are checked at that place."""
    faults.zero_a_late_slot(monkeypatch)
    monkeypatch.setattr("kvbench.run.schedule.reach_of", lambda *_: None)
    run = sweep(tmp_path, batch_size=[4], repeats=2)
    assert len({sample.output_sha256 for sample in run.samples if sample.phase == "measure"}) == 2
    (output,) = [check for check in load_checks(run.path) if check.check == "output"]
    assert output.verdict == "fail"
    assert output.case_id == next(s.case_id for s in run.samples if s.cache == "dynamic")
    assert output.parted_at > faults.LATE_SLOT - 8
    assert output.rms_over_std > 1e-3 > output.rms_limit
    assert output.token_off != output.token_cached
    (finding,) = run.info.findings
    assert finding.verdict == "fail"
    assert output.detail in finding.detail
    last = [s for s in run.samples if s.cache == "dynamic" and s.phase == "measure"][-1]
    assert VERIFY_FAILED in (last.flags or "")


@pytest.mark.parametrize(
    ("config", "dtype"),
    [(GPT2 | {"n_positions": 256}, "float32"), (LLAMA, "bfloat16")],
    ids=["gpt2", "llama"],
)
def test_a_healthy_sweep_says_how_far_it_looked(tmp_path: Path, config: Any, dtype: str) -> None:
    run = sweep(tmp_path, config, batch_size=[1, 4], max_new_tokens=[10, 100], dtype=[dtype])
    (finding,) = run.info.findings
    assert (finding.verdict, finding.reach) == ("pass", ((4, 100),))
    (far,) = [check for check in load_checks(run.path) if is_far(check)]
    assert (far.batch_size, far.new_tokens, far.positions) == (4, 100, 64)
    assert far.checked_dtype == "float32"
    assert far.floor_rms_over_std < 1e-5


def test_a_table_of_positions_bounds_the_look(tmp_path: Path) -> None:
    run = sweep(tmp_path, GPT2, max_new_tokens=[40, 100])
    (finding,) = run.info.findings
    # 64 positions, 8 of them the prompt's; the last token is never fed back.
    assert (finding.verdict, finding.reach) == ("pass", ((1, 57), (4, 8)))
