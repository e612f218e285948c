"""scripts/gpu.py: steps that pass, fail, hang and refuse to end; a machine without a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kvbench.plan.plan import Plan
from tests.run.faults import ROOT

SCRIPT = ROOT / "scripts" / "gpu.py"
HANG = "import time; time.sleep(1000)"
STUBBORN = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {HANG}"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script, which is in no package, with short waits."""
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "GRACE_S", 2.0)
    return module


def test_a_step_is_copied_and_its_end_is_said(gpu: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert gpu.run([sys.executable, "-c", "print('all well')"], 60.0, log) == "ok"
    assert log.read_text() == "all well\n"
    assert gpu.run([sys.executable, "-c", "raise SystemExit(3)"], 60.0, log) == "exit code 3"


@pytest.mark.parametrize("program", [HANG, STUBBORN])
def test_a_step_that_exceeds_its_share_is_ended(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    stop, stopped = gpu.stop, []
    monkeypatch.setattr(gpu, "stop", lambda process: (stopped.append(process), stop(process)))
    assert gpu.run([sys.executable, "-c", program], 1.0, tmp_path / "log") == "ended: no time"
    (process,) = stopped
    assert process.returncode not in (None, 0)


def test_the_next_step_goes_on_with_the_time_that_is_left(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = [
        ("hangs", 0.001, ["-c", HANG]),
        ("works", 1.0, ["-c", "print('done')"]),
    ]
    assert gpu.carry_out(todo, tmp_path, time.monotonic() + 300) == 1
    out = capsys.readouterr().out
    assert "hangs    ended: no time" in out
    assert "works    ok" in out
    assert gpu.carry_out(todo[1:], tmp_path, time.monotonic() + 300) == 0


def test_the_steps_are_all_cuda_tests_the_sweep_and_the_checks(
    gpu: ModuleType, tmp_path: Path
) -> None:
    (_, _, tests), (_, _, sweep), (_, _, checks) = gpu.steps(tmp_path)
    files = [argument for argument in (*tests, *checks) if argument.endswith(".py")]
    mark = ".".join(("mark", "cuda"))
    marked = [str(p) for p in ROOT.glob("tests/**/*.py") if mark in p.read_text("utf-8")]
    assert sorted(files) == sorted(marked)
    assert [Path(file).name for file in checks if file.endswith(".py")] == ["test_checks.py"]
    assert str(ROOT / "kvbench" / "configs" / "gpu.yaml") in sweep


def test_the_configuration_is_of_a_gpu_in_half_precision() -> None:
    cases = Plan.load(ROOT / "kvbench" / "configs" / "gpu.yaml").cases(("cpu", "cuda"))
    assert len(cases) == 8
    assert {(case.device, case.dtype, case.weights) for case in cases} == {
        ("cuda", "bfloat16", "random")
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "out"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "No CUDA device: torch " in done.stderr
    assert not (tmp_path / "out").exists()
