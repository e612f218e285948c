"""Tests of kvbench/measure/verify/leak.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from kvbench.caches import STRATEGIES, CacheStrategy, strategy
from kvbench.measure.verify.leak import Leak, find_leak, rss_growth, tensor_bytes
from kvbench.measure.verify.runs import make_work
from tests.tiny import LLAMA, config_folder, load

MIB = 2**20


def test_a_resident_set_that_grows_by_a_cache_each_time_leaks() -> None:
    levels = [500 * MIB + step * MIB for step in range(7)]
    assert rss_growth(levels, cache_size=MIB) == 6 * MIB


def test_the_noise_of_pages_is_no_leak() -> None:
    noise = random.Random(0)
    for _ in range(200):
        levels = [500 * MIB + noise.randrange(MIB // 4) for _ in range(7)]
        assert rss_growth(levels, cache_size=MIB) == 0


def test_growth_that_is_hidden_in_noise_is_not_certain() -> None:
    levels = [0, 9 * MIB, 2 * MIB, 8 * MIB, 3 * MIB, 11 * MIB, 7 * MIB]
    assert rss_growth(levels, cache_size=MIB) == 0


@pytest.mark.parametrize("step", [4096, 64 * 1024])
def test_growth_of_a_few_pages_or_of_little_of_a_cache_is_none(step: int) -> None:
    levels = [500 * MIB + count * step for count in range(7)]
    assert rss_growth(levels, cache_size=1000) == 0
    assert rss_growth(levels, cache_size=10 * MIB) == 0


def test_a_level_that_stays_or_falls_is_no_leak() -> None:
    assert rss_growth([MIB] * 7, cache_size=0) == 0
    assert rss_growth([MIB * (7 - step) for step in range(7)], cache_size=0) == 0


def test_two_levels_make_no_line() -> None:
    assert rss_growth([0, 100 * MIB], cache_size=MIB) == 0


def test_live_tensors_are_counted_by_storage() -> None:
    before = tensor_bytes()
    whole = torch.zeros(1000)
    views = [whole[:10], whole.view(10, 100)]
    assert tensor_bytes() - before == 4000
    del whole
    assert tensor_bytes() - before == 4000
    del views
    assert tensor_bytes() == before


def test_tensors_without_a_storage_do_not_stop_the_count() -> None:
    before = tensor_bytes()
    sparse = torch.zeros(4, 4).to_sparse()
    assert tensor_bytes() >= before
    assert sparse.is_sparse


def test_nothing_is_left_of_a_healthy_model(tmp_path: Path) -> None:
    work = make_work(load(config_folder(tmp_path, LLAMA)), 1, 4, 0)
    leak = find_leak(work, strategy("dynamic"), 4)
    assert leak == Leak(kept=0, made=4, tensor_bytes=0, device_bytes=None, rss_bytes=0)
    assert not leak.found


def test_one_cache_that_serves_all_is_no_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(load(config_folder(tmp_path, LLAMA)), 1, 4, 0)
    body = "tests.measure.bodies:transformers_static"
    entry = CacheStrategy(name="fixed", description=".", body=body)
    monkeypatch.setitem(STRATEGIES, "fixed", entry)
    leak = find_leak(work, strategy("fixed"), 3)
    assert not leak.found
    assert leak.tensor_bytes == 0


@pytest.mark.parametrize(
    ("leak", "found", "where"),
    [
        (Leak(0, 3, 0, None, 0), False, "the tensors tracked by Python"),
        (Leak(1, 1, 0, None, 0), False, "the tensors tracked by Python"),
        (Leak(1, 3, 0, None, 0), True, "the tensors tracked by Python"),
        (Leak(0, 3, 8, 4, None), True, "the tensors tracked by Python"),
        (Leak(0, 3, 4, 8, None), True, "the GPU's memory"),
        (Leak(0, 3, 0, None, 8), True, "the resident set"),
    ],
)
def test_any_sign_is_enough(leak: Leak, found: bool, where: str) -> None:
    assert leak.found is found
    assert leak.where == where
    assert leak.leaked_bytes == (8 if found and leak.kept == 0 else 0)
