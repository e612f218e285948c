"""The cache on disk: no file outlives its process, and a sample records how much was on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvbench.measure.engine import LocalEngine
from kvbench.records.events import ModelLoaded
from tests.fakes import run_task
from tests.tiny import LLAMA, case, config_folder, task

_HOLD_FILES = """
import sys, torch
from kvbench.measure.caches.disk import DiskLayer
layer = DiskLayer(2, 1000)
for _ in range(5):
    layer.update(torch.ones(1, 2, 3, 16), torch.ones(1, 2, 3, 16))
print(sum(one.untyped_storage().nbytes() for one in layer.on_disk), flush=True)
sys.stdin.read()
"""


def test_no_file_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD_FILES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        text=True,
    )
    assert held.stdout is not None
    assert int(held.stdout.readline()) == 2 * 1000 * 2 * 16 * 4
    # It exists while it runs, and is mapped from that folder, but has no name.
    maps = Path(f"/proc/{held.pid}/maps")
    if maps.exists():
        assert str(tmp_path) in maps.read_text()
    held.send_signal(signal.SIGKILL)
    held.wait()
    held.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_sample_says_how_much_is_on_disk(tmp_path: Path) -> None:
    engine = LocalEngine()
    folder = config_folder(tmp_path, LLAMA)
    one = case(folder, cache="disk:recent=4")
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    try:
        sample = run_task(engine, task(one))[0]
        other = run_task(engine, task(case(folder)))[0]
    finally:
        engine.close()
    position = 2 * 2 * 16 * 4
    # Five tokens of a prompt and eight new ones, the last of which is never fed, in two layers.
    assert sample.cache_disk_bytes == 2 * 8 * position
    assert sample.cache_allocated_bytes == 2 * 4 * position
    assert sample.kv_cache_bytes == 2 * 12 * position
    assert other.cache_disk_bytes is None
    assert sample.output_sha256 == other.output_sha256


def test_a_full_disk_is_an_error_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    engine = LocalEngine()
    one = case(config_folder(tmp_path, LLAMA), cache="disk:recent=4")
    assert isinstance(engine.open(one.model_key), ModelLoaded)
    try:
        sample = run_task(engine, task(one))[0]
    finally:
        engine.close()
    assert sample.status != "ok"
    assert "No space left on device" in (sample.error or "")
