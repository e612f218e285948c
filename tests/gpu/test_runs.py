"""What is read from the rows of runs, on runs of an H100 that are stored here; needs no GPU."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import torch

from kvbench.records.run import load_run
from tests.gpu.memory import live_tensors
from tests.gpu.runs import Growth, cold_cases, growths, wrong_caches

GOLDEN = Path(__file__).parents[1] / "golden"
MIB = 1 << 20


def changed(folder: Path, name: str, **columns: Any) -> Path:
    """A copy of a run with columns of its samples set."""
    shutil.copytree(GOLDEN / name, folder / name)
    path = folder / name / "samples.csv"
    with path.open(newline="") as file:
        rows = [row | columns for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def test_growth_is_what_was_added_to_what_was_there(tmp_path: Path) -> None:
    assert growths(load_run(GOLDEN / "h100-gpt2-cuda")) == []  # From before the column existed.
    path = changed(tmp_path, "h100-gpt2-cuda", torch_reserved_before_bytes=713_031_680)
    found = growths(load_run(path))
    assert len(found) == 6
    for one in found:
        assert abs(one.nvml - one.reserved) <= 2 * MIB
    cached = next(one for one in found if one.cache)
    expected = (33_554_432, 31_457_280, 77_431_296, 74_096_640)
    assert cached == Growth(cached.sample_id, *expected)


def test_a_cache_of_other_bytes_is_found(tmp_path: Path) -> None:
    assert wrong_caches(load_run(GOLDEN / "h100-gpt2-cuda")) == []
    path = changed(tmp_path, "h100-gpt2-cuda", kv_cache_bytes=74_096_641)
    (wrong,) = wrong_caches(load_run(path))
    assert "74096641, in theory 74096640" in wrong


def test_a_first_sample_that_was_cold_is_found() -> None:
    assert cold_cases(load_run(GOLDEN / "h100-gpt2-cuda")) == []
    assert len(cold_cases(load_run(GOLDEN / "h100-llama-7b"))) == 2


def test_tensors_that_live_are_listed() -> None:
    before = len(live_tensors("meta"))
    held = torch.empty(3, 5, device="meta", dtype=torch.float16)
    assert "Tensor (3, 5) torch.float16" in live_tensors("meta")
    assert len(live_tensors("meta")) == before + 1
    del held
    assert len(live_tensors("meta")) == before
