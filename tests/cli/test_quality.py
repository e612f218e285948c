"""Tests of kvbench/cli/quality.py: a run gets the quality of its lossy strategies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvbench.records.quality import load_qualities
from tests.cli.test_estimate import run_cli
from tests.in_process import in_process
from tests.tiny import LLAMA, checkpoint, word_tokenizer

FP8 = "quantized:backend=fp8"


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweep in this process, without charts; `kvbench quality` starts a real worker."""
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", in_process)
    monkeypatch.setattr("kvbench.report.build.draw_charts", lambda *arguments: iter(()))


def a_run(path: Path, caches: str, weights: str, quality: str = "--no-quality") -> Path:
    model = checkpoint(path / "model", LLAMA)
    word_tokenizer(path / "model")
    options = ["-n", "4", "-r", "1", "--prompt-tokens", "4", "--no-verify", "--quiet", quality]
    named = ["--out", path, "--name", "run", "--weights", weights]
    assert run_cli("sweep", "-m", model, "-c", caches, *options, *named) == 0
    return path / "run"


def test_a_run_gets_the_quality_of_its_lossy_strategies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path, f"off,dynamic,{FP8}", "pretrained")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{3 + number * 37 % 500}" for number in range(300)))
    capsys.readouterr()
    asked = ["--text", text, "--passages", 2, "--prefill", 40, "--steps", 4, "--needles", 0]
    assert run_cli("quality", run, *asked, "--format", "json") == 0
    [said] = json.loads(capsys.readouterr().out)
    [row] = load_qualities(run)
    assert (row.cache, row.text, row.reason) == (FP8, "text.txt", None)
    assert row.kl_divergence == said["kl_divergence"] > 0
    # The derived files know it now, and a resumed run leaves it alone.
    assert "KL" in (run / "summary.md").read_text()
    assert not (run / ".lock").exists()
    assert run_cli("show", run) == 0
    assert "same top-1" in capsys.readouterr().out


def test_random_weights_are_a_row_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbench.run.quality.WorkerEngine", in_process)
    run = a_run(tmp_path, f"off,{FP8}", "random")
    assert run_cli("quality", run) == 0
    assert "random weights have no meaningful quality" in capsys.readouterr().out
    [row] = load_qualities(run)
    assert row.perplexity is None


def test_a_run_without_a_lossy_strategy_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path, "off,dynamic", "random")
    assert run_cli("quality", run) == 2
    assert "none of its cache strategies is lossy" in capsys.readouterr().err
    assert load_qualities(run) == ()


def test_a_sweep_measures_quality_by_itself(tmp_path: Path) -> None:
    run = a_run(tmp_path, f"off,dynamic,{FP8}", "pretrained", "--quality")
    [row] = load_qualities(run)
    assert (row.cache, row.text, row.session) == (FP8, "pydoc_data.topics", 0)
    # The tiny model has few positions: a reason is as good, as long as the samples are there.
    assert (row.reason is None) == (row.perplexity is not None)
    assert len((run / "samples.csv").read_text().splitlines()) == 1 + 2 * 3
