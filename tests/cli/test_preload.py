"""Tests of kvbench/cli/preload.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kvbench.cli.preload import REPORT, Preload
from kvbench.records.events import ModelLoading, SampleStarted, SweepStarted
from tests.fakes import make_case, make_task


def test_modules_are_imported_between_the_load_and_the_first_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(0.2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_to_import", raising=False)
    preload = Preload(("no_such_module_at_all", "slow_to_import"))
    case = make_case()
    preload(SampleStarted(make_task(case)))
    preload(SweepStarted(tmp_path, (case,), 1))
    assert "slow_to_import" not in sys.modules
    preload(ModelLoading(case.model_key))
    preload(ModelLoading(case.model_key))
    preload(SampleStarted(make_task(case)))
    assert "slow_to_import" in sys.modules


def test_what_is_imported_early_is_what_a_report_needs() -> None:
    Preload(REPORT)._import()
    assert set(REPORT) <= set(sys.modules)
